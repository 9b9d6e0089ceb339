"""The start model's figures of an answer: against a slow reference, whatever the batch, and on answers that differ."""

import random
from collections.abc import Callable
from functools import partial
from statistics import fmean, stdev

import pytest
import torch

from sdpo.method.scoring import score
from sdpo.models.answer_quality import (
    LEAK_NATS,
    LEAK_TOKENS,
    OTHER_PROMPTS,
    AnswerQuality,
    measure_quality,
    measure_surprise,
    summarize_quality,
)
from sdpo.models.generate import generate
from sdpo.models.policy import load_model
from sdpo.study.run import messages_of
from sdpo.text.chat import encode_answer, encode_completion, encode_prompt
from sdpo.text.hindsight import HINDSIGHT, template_named, with_hindsight
from sdpo.text.prompts import NULL_FOLLOW_UP
from sdpo.tiny import MODEL_DIR, language
from sdpo.tiny.data import posts

WISH = language.write_request(random.Random(1), {"emoji": False})
SAMPLES = 256


@pytest.fixture(scope="module")
def start():
    return load_model(str(MODEL_DIR))[1].eval()


@pytest.fixture(scope="module")
def own(start, tokenizer):
    """Return prompts, and the start model's answers to them at temperature 1 as token ids."""
    prompts = [messages_of(row.prompt) for row in posts(SAMPLES, 1, True, "quality")]
    encoded = [encode_prompt(tokenizer, messages) for messages in prompts]
    answers = generate(start, tokenizer, encoded, 48, 64, temperature=1.0, seed=0)
    assert all(finished for _, finished in answers)
    return prompts, [encode_answer(tokenizer, *answer) for answer in answers]


def scorer(model, batch_size: int = 64) -> Callable:
    @torch.no_grad()
    def with_entropy(contexts, completions):
        return score(model, contexts, completions, batch_size, entropy=True)

    return with_entropy


# The slow reference: one row at a time, one token at a time, from the logits of a plain forward


def slow_tokens(model, context: list[int], completion: list[int]) -> list[tuple[float, float]]:
    """Return (log-probability, entropy) of each token."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*context, *completion]])).logits[0].double()
    tokens = []
    for index, token in enumerate(completion):
        logps_V = logits[len(context) - 1 + index].log_softmax(-1)
        tokens.append((logps_V[token].item(), -(logps_V.exp() * logps_V).sum().item()))
    return tokens


def slow_quality(model, encode, prompts, completions, wish, template) -> list[AnswerQuality]:
    rows = []
    for index, (messages, completion) in enumerate(zip(prompts, completions, strict=True)):
        bare = slow_tokens(model, encode(messages), completion)
        variants = [bare]
        if wish is not None:
            variants.append(slow_tokens(model, encode(with_hindsight(messages, wish, template)), completion))
        fluencies = [fmean(logp for logp, _ in tokens) for tokens in variants]
        surprises = [fmean(-logp - entropy for logp, entropy in tokens) for tokens in variants]
        after_others = [
            fmean(logp for logp, _ in slow_tokens(model, encode(prompts[(index + shift) % len(prompts)]), completion))
            for shift in range(1, min(OTHER_PROMPTS, len(prompts) - 1) + 1)
        ]
        topic = fluencies[0] - fmean(after_others) if after_others else 0.0
        beginning = completion[:LEAK_TOKENS]
        replies = [
            sum(logp for logp, _ in slow_tokens(model, encode([{"role": "user", "content": text}]), beginning))
            for text in ([NULL_FOLLOW_UP] if wish is None else [NULL_FOLLOW_UP, wish])
        ]
        leak = max(replies) > sum(logp for logp, _ in bare[:LEAK_TOKENS]) + LEAK_NATS
        rows.append(AnswerQuality(max(fluencies), min(surprises), topic, leak))
    return rows


def assert_same(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert vars(row) == pytest.approx(vars(other), abs=2e-4)


@pytest.mark.parametrize("wish", [None, WISH])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("place", ["framed", "system"])
def test_figures_equal_the_slow_reference(start, tokenizer, own, wish, count, place):
    prompts, completions = own[0][:count], [list(ids) for ids in own[1][:count]]
    # Not only answers as the model gives them: one is swapped, one is nonsense and one a single token.
    completions[0] = own[1][7]
    if count == 5:
        completions[1] = encode_completion(tokenizer, language.write_thanks(random.Random(2)))
        completions[2], completions[3] = [17, 40, 99, 7], [tokenizer.eos_token_id]
    template = template_named(place)
    rows = measure_quality(scorer(start, 2), tokenizer, prompts, completions, wish, template)
    assert_same(rows, slow_quality(start, partial(encode_prompt, tokenizer), prompts, completions, wish, template))
    variants = [prompts] if wish is None else [prompts, [with_hindsight(row, wish, template) for row in prompts]]
    by_variant = [measure_surprise(scorer(start, 2), tokenizer, variant, completions) for variant in variants]
    surprises = [min(values) for values in zip(*by_variant, strict=True)]
    assert surprises == pytest.approx([row.surprise for row in rows], abs=1e-5)


def test_the_reference_itself_on_numbers_worked_by_hand(tokenizer):
    """A model with two possible tokens of known probability stands for the start model."""
    from sdpo.method.scoring import Scores

    half, quarter = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    own_context = encode_prompt(tokenizer, [{"role": "user", "content": "a"}])

    def known(contexts, completions):
        rows = [[half if context == own_context else quarter] * 3 for context in contexts]
        return Scores(torch.tensor(rows), torch.full((len(rows), 3), 0.5), torch.tensor([[1.0, 1.0, 0.0]] * len(rows)))

    prompts = [[{"role": "user", "content": text}] for text in "ab"]
    first, second = measure_quality(known, tokenizer, prompts, [[5, 6], [5, 6]], None, HINDSIGHT)
    # ln 2 = 0.6931; the mask leaves out the third token.
    assert (first.fluency, first.surprise) == pytest.approx((-0.6931, 0.1931), abs=1e-4)
    assert (second.fluency, second.surprise) == pytest.approx((-1.3863, 0.8863), abs=1e-4)
    # After the other prompt, "b" and "a", the tokens have a half and twice the probability.
    assert (first.topic, second.topic) == pytest.approx((0.6931, -0.6931), abs=1e-4)
    summary = summarize_quality([first, second])
    assert summary == pytest.approx({"fluency": -1.0397, "surprise": 0.5397, "topic": 0.0, "leak": 0.0}, abs=1e-4)


# Batches and order


@pytest.mark.parametrize("wish", [None, WISH])
def test_figures_do_not_depend_on_the_batch_size(start, tokenizer, own, wish):
    prompts, completions = own[0][:9], own[1][:9]
    measured = [
        measure_quality(scorer(start, size), tokenizer, prompts, completions, wish, HINDSIGHT) for size in (1, 2, 4, 9)
    ]
    for rows in measured[1:]:
        assert_same(rows, measured[0])


@pytest.mark.parametrize("wish", [None, WISH])
def test_figures_do_not_depend_on_the_order_of_the_answers(start, tokenizer, own, wish):
    # With as many others as there are other prompts, the topic does not depend on the order either.
    count = OTHER_PROMPTS + 1
    prompts, completions = own[0][:count], own[1][:count]
    measure = partial(measure_quality, scorer(start, 2), tokenizer, wish=wish, template=HINDSIGHT)
    rows = measure(prompts, completions)
    for order in ([1, 2, 0], [2, 1, 0], [0, 2, 1]):
        permuted = measure([prompts[index] for index in order], [completions[index] for index in order])
        assert_same(permuted, [rows[index] for index in order])
    # All but the topic do not depend on the other answers at all.
    for index in range(count):
        (alone,) = measure(prompts[index : index + 1], completions[index : index + 1])
        assert alone.topic == 0.0
        for name in ("fluency", "surprise", "leak"):
            assert getattr(alone, name) == pytest.approx(getattr(rows[index], name), abs=2e-4)


# What the figures say


def shuffled(completions: list[list[int]]) -> list[list[int]]:
    rng = random.Random(0)
    return [[*rng.sample(ids[:-1], len(ids) - 1), ids[-1]] for ids in completions]


def test_the_surprise_of_the_models_own_answers_is_zero_within_its_error(start, tokenizer, own):
    prompts, completions = own
    surprises = measure_surprise(scorer(start), tokenizer, prompts, completions)
    error = stdev(surprises) / len(surprises) ** 0.5
    assert 0 < error < 0.01 and abs(fmean(surprises)) < 3 * error
    # The same for answers that are shown the wish, with the wish.
    encoded = [encode_prompt(tokenizer, with_hindsight(messages, WISH)) for messages in prompts[:128]]
    answers = generate(start, tokenizer, encoded, 48, 64, temperature=1.0, seed=1)
    shown = [encode_answer(tokenizer, *answer) for answer in answers]
    surprises = measure_surprise(
        scorer(start), tokenizer, [with_hindsight(messages, WISH) for messages in prompts[:128]], shown
    )
    assert fmean(surprises) < 3 * stdev(surprises) / 128**0.5


def test_surprise_and_fluency_tell_shuffled_words_from_answers(start, tokenizer, own):
    prompts, completions = own[0][:64], own[1][:64]
    rows = [
        summarize_quality(measure_quality(scorer(start), tokenizer, prompts, answers, WISH, HINDSIGHT))
        for answers in (completions, shuffled(completions))
    ]
    assert rows[0]["surprise"] < 0.1 and rows[1]["surprise"] > 2.0
    assert rows[0]["fluency"] > rows[1]["fluency"] + 2.0
    surprises = measure_surprise(scorer(start), tokenizer, prompts, shuffled(completions))
    assert sum(value > 0.35 for value in surprises) >= 0.95 * len(surprises)  # the guard's limit


def test_an_answer_is_more_on_topic_after_its_own_prompt_than_after_another(start, tokenizer, own):
    prompts, completions = own[0][:64], own[1][:64]
    measure = partial(measure_quality, scorer(start), tokenizer, prompts, wish=None, template=HINDSIGHT)
    right, swapped = measure(completions), measure(completions[5:] + completions[:5])
    assert all(row.topic > 0 for row in right)
    better = sum(mine.topic > other.topic for mine, other in zip(right, swapped, strict=True))
    assert better >= 0.95 * len(right)
    assert abs(fmean(row.topic for row in swapped)) < 0.2 * fmean(row.topic for row in right)


def test_an_answer_that_the_wish_asks_for_is_no_less_fluent(start, tokenizer, own):
    """A policy that has learned the style is not penalised: either of the two contexts may explain the answer."""
    prompts, completions = own[0][:32], own[1][:32]
    measure = partial(measure_quality, scorer(start), tokenizer, prompts, completions, template=HINDSIGHT)
    for bare, both in zip(measure(wish=None), measure(wish=WISH), strict=True):
        assert both.fluency >= bare.fluency - 1e-6 and both.surprise <= bare.surprise + 1e-6
        assert both.topic == pytest.approx(bare.topic, abs=1e-6)
        assert both.leak >= bare.leak


def test_only_the_beginning_of_an_answer_decides_whether_it_is_a_leak(start, tokenizer, own):
    answer = own[1][0]
    assert len(answer) > LEAK_TOKENS
    measure = partial(measure_quality, scorer(start), tokenizer, own[0][:1], wish=None, template=HINDSIGHT)
    nonsense = [17, 40, 99, 7] * 20
    assert [row.leak for row in measure([[*answer[:LEAK_TOKENS], *nonsense]])] == [False]
    assert [row.leak for row in measure([[*nonsense[:LEAK_TOKENS], *answer]])] == [True]
