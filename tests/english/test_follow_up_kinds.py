"""The reader of follow-ups: its labelled messages, its features, and that it learns what separates them."""

from collections import Counter

import pytest
import torch

from sdpo.english.follow_up_kinds import FollowUpReader, _fit, labelled_messages, message_features
from sdpo.models.policy import load_model
from sdpo.text.chat import encode_text
from sdpo.text.prompts import FOLLOW_UP_KINDS
from sdpo.tiny import MODEL_DIR


@pytest.fixture(scope="module")
def tiny():
    tokenizer, model = load_model(str(MODEL_DIR))
    return tokenizer, model.eval()


def with_model(model):
    def run(function):
        with torch.no_grad():
            return function(model)

    return run


def test_every_kind_has_messages_in_both_splits_and_no_message_is_in_two():
    rows = {split: labelled_messages(split) for split in ("train", "test")}
    for split, least in (("train", 130), ("test", 60)):
        counts = Counter(kind for _, kind in rows[split])
        assert set(counts) == set(FOLLOW_UP_KINDS) and min(counts.values()) >= least
    texts = [text for split in rows.values() for text, _ in split]
    assert len(texts) == len(set(texts))


def test_features_do_not_depend_on_padding_or_the_batch(tiny):
    tokenizer, model = tiny
    rows = [encode_text(tokenizer, text) for text in ("a", "please no emojis", "thanks, that is just how I like it")]
    with torch.no_grad():
        together_NF = message_features(model, rows)
        alone_NF = torch.cat([message_features(model, [row]) for row in rows])
    assert torch.allclose(together_NF, alone_NF, atol=1e-4)
    assert not torch.allclose(together_NF[1], together_NF[2], atol=1e-2)


def test_features_are_means_and_last_tokens_of_the_layers(tiny):
    tokenizer, model = tiny
    ids = encode_text(tokenizer, "please write it shorter")
    with torch.no_grad():
        features_F = message_features(model, [ids])[0]
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    size, depth = states[0].shape[-1], len(states) - 1
    middle_TH = states[round(depth / 2)][0].float()
    assert torch.allclose(features_F[2 * size : 3 * size], middle_TH[1:].mean(0), atol=1e-5)
    assert torch.allclose(features_F[3 * size : 4 * size], middle_TH[-1], atol=1e-5)


def test_the_fit_separates_what_is_separable_and_weighs_rare_kinds_like_others():
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.tensor([0] * 200 + [1] * 20 + [2] * 20)
    centres_KF = torch.eye(3, 16) * 3
    features_NF = centres_KF[labels_N] + torch.randn(240, 16, generator=generator) * 0.3
    weights_FK, bias_K = _fit(features_NF / 4, labels_N, 3)
    found_N = (10 * features_NF / 4 @ weights_FK + bias_K).argmax(-1)
    assert (found_N == labels_N).all()


def test_a_reader_of_the_tiny_model_learns_its_messages_and_reads_any_number(tiny):
    tokenizer, model = tiny
    reader = FollowUpReader(with_model(model), tokenizer)
    rows = labelled_messages("train")
    kinds = reader.kinds([text for text, _ in rows])
    right = sum(kind == label for kind, (_, label) in zip(kinds, rows, strict=True)) / len(rows)
    # The tiny model does not know English, yet its states tell its training messages apart far above chance.
    assert right > 0.7
    assert reader.kinds([]) == []
    probabilities_NK = reader.probabilities(["", "x" * 5000])
    assert torch.allclose(probabilities_NK.sum(-1), torch.ones(2), atol=1e-5)
