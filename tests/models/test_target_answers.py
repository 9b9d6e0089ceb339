"""Answers sampled from the contrast target: they are what the equation says, token by token."""

from random import Random

import pytest
import torch

from sdpo.method.loss import Contexts
from sdpo.method.objective import Objective, contrast
from sdpo.models.generate import generate
from sdpo.models.target_answers import sample_from_target
from sdpo.study.run import messages_of
from sdpo.text.chat import decode, encode_prompt
from sdpo.text.hindsight import HINDSIGHT, with_hindsight
from sdpo.tiny import language, oracle
from sdpo.tiny.data import posts

STYLE = {"emoji": True}
OBJECTIVE = Objective(kind="full", null_contrast=True, contrast_strength=2.0, contrast_plausibility=0.05)


@pytest.fixture(scope="module")
def contexts(tokenizer):
    rng = Random(0)
    null = language.write_unrelated(rng)
    rows = []
    for row in posts(10, 3, True, "target"):
        messages, wish = messages_of(row.prompt), language.write_request(rng, STYLE)
        shown = (encode_prompt(tokenizer, with_hindsight(messages, text, HINDSIGHT)) for text in (wish, null))
        rows.append(Contexts(encode_prompt(tokenizer, messages), *shown))
    return rows


def slow_greedy(model, tokenizer, row: Contexts, objective: Objective, length: int) -> list[int]:
    """Return the most likely tokens of the contrast, one full forward pass of each context per token."""
    new: list[int] = []
    for _ in range(length):
        with torch.no_grad():
            hindsight, null, bare = (
                model(torch.tensor([[*context, *new]])).logits[0, -1].log_softmax(-1)
                for context in (row.hindsight, row.null, row.prompt)
            )
        target = contrast(hindsight, null, bare, objective.contrast_strength, 0.0, objective.contrast_plausibility)
        new.append(int(target.argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    return new


def test_each_token_is_the_most_likely_one_of_the_contrast(model, tokenizer, contexts):
    answers = sample_from_target(model, tokenizer, contexts[:4], OBJECTIVE, 40, 9, 0.0, 0)
    for row, (text, finished) in zip(contexts, answers, strict=False):
        expected = slow_greedy(model, tokenizer, row, OBJECTIVE, 40)
        assert text == decode(tokenizer, expected) and finished == (expected[-1] == tokenizer.eos_token_id)


def test_without_a_difference_the_samples_are_the_models_own(model, tokenizer, contexts):
    same = [Contexts(row.prompt, row.null, row.null) for row in contexts]
    greedy = generate(model, tokenizer, [row.prompt for row in contexts], 40, 8)
    assert sample_from_target(model, tokenizer, same, OBJECTIVE, 40, 8, 0.0, 0) == greedy


def test_samples_fit_the_wish_in_the_order_of_the_prompts_and_by_the_seed(model, tokenizer, contexts):
    state = torch.get_rng_state()
    first = sample_from_target(model, tokenizer, contexts, OBJECTIVE, 48, 12, 1.0, 5)
    assert torch.equal(state, torch.get_rng_state())
    assert first == sample_from_target(model, tokenizer, contexts, OBJECTIVE, 48, 12, 1.0, 5)
    assert first != sample_from_target(model, tokenizer, contexts, OBJECTIVE, 48, 12, 1.0, 6)

    def share(answers):
        return sum(not oracle.violated(oracle.read_answer(text).style, STYLE) for text, _ in answers) / len(answers)

    plain = generate(model, tokenizer, [row.prompt for row in contexts], 48, 8, 1.0, 5)
    assert share(first) > 0.5 + share(plain), (share(first), share(plain))
