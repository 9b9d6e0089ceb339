"""How much larger a complaint's signal is than that of thanks and of an unrelated message, on a real model.

For each prompt the model samples an answer. Complaints are those of styles that the answer violates, so that each of
them is about the answer; thanks and unrelated messages are drawn for the same answers. A row's size is the mean over
the answer's tokens of |S(log π(y_t | x, o) − log π(y_t | x, o∅))| with the margin's soft threshold S, as the objective
takes it with NULL_CONTRAST, or of |log π(y_t | x, o) − log π(y_t | x)| without. Prompts and wordings are held out.
LEARN_FROM=complaints gives a row the weight 0 unless its follow-up is read as a complaint; sizes are given with these
weights too.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from random import Random
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import softshrink

from sdpo.english.checkers import checker_of
from sdpo.english.follow_up_kinds import FollowUpReader
from sdpo.english.prompts import EnglishPrompt, prompts
from sdpo.english.styles import STYLES, complaints, praise, unrelated
from sdpo.method.scoring import score
from sdpo.models.generate import generate
from sdpo.runtime.statistics import ratio_interval
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.hindsight import HindsightTemplate, template_named, with_hindsight
from sdpo.text.prompts import FOLLOW_UP_KINDS, NULL_FOLLOW_UP, Message

KINDS = ("complaint", "thanks", "unrelated")
COMPLAINT = FOLLOW_UP_KINDS[0]
PER_KIND = 5  # complaints, and at most as many thanks and unrelated messages, to each answer
MARGINS = (None, 0.0, 0.25, 0.5, 1.0)  # None is without contrast
ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Answer:
    """A sampled answer as token ids, with the follow-ups to it by kind."""

    prompt: EnglishPrompt
    completion: list[int]
    follow_ups: dict[str, list[str]]

    @property
    def messages(self) -> list[Message]:
        """The prompt as messages."""
        return [{"role": "user", "content": self.prompt.prompt}]


def sample_answers(model: Any, tokenizer: Any, count: int, seed: int) -> list[Answer]:
    """Return answers to held-out prompts, evenly spread over all kinds of prompts, with follow-ups to each."""
    chosen = prompts("validation")
    chosen = [chosen[index * len(chosen) // count] for index in range(count)]
    contexts = [encode_prompt(tokenizer, [{"role": "user", "content": prompt.prompt}]) for prompt in chosen]
    answers = generate(model, tokenizer, contexts, ANSWER_TOKENS, 32, temperature=1.0, seed=seed)
    rows = []
    for prompt, (text, finished) in zip(chosen, answers, strict=True):
        rng = Random(f"{seed} {prompt.id}")
        missed = [style for style in STYLES if not checker_of(style).fits(text, prompt.prompt)]
        if not missed:
            continue
        wordings = [rng.choice(complaints(missed[index % len(missed)], held_out=True)) for index in range(PER_KIND)]
        follow_ups = {
            "complaint": wordings,
            "thanks": rng.sample(praise(held_out=True), PER_KIND),
            "unrelated": rng.sample(unrelated(held_out=True), PER_KIND),
        }
        rows.append(Answer(prompt, encode_answer(tokenizer, text, finished), follow_ups))
    return rows


@torch.no_grad()
def measure(
    model: Any, tokenizer: Any, answers: Sequence[Answer], names: Sequence[str], batch_size: int = 8
) -> Iterator[dict[str, Any]]:
    """Yield a result for each template and margin: mean sizes by kind, and two ratios with 95 % intervals."""
    reader = FollowUpReader(lambda read: read(model), tokenizer)
    weights = [weights_of(reader, answer) for answer in answers]
    for name in names:
        template = template_named(name)
        sizes: dict[float | None, dict[str, list[float]]] = {margin: {kind: [] for kind in KINDS} for margin in MARGINS}
        weighted: dict[float | None, dict[str, list[float]]] = copy.deepcopy(sizes)
        for answer, weight in zip(answers, weights, strict=True):
            for kind, margin, each in _sizes(model, tokenizer, answer, template, batch_size):
                sizes[margin][kind].append(fmean(each))
                weighted[margin][kind].append(fmean(map(mul, each, weight[kind])))
        for margin in MARGINS:
            names_of = {"template": name, "margin": margin, "answers": len(answers)}
            yield names_of | _ratios(sizes[margin]) | {"complaints_alone": _ratios(weighted[margin])}


def weights_of(reader: FollowUpReader, answer: Answer) -> dict[str, list[float]]:
    """Return the weight of each follow-up under LEARN_FROM=complaints, by kind."""
    return {
        kind: [float(read == COMPLAINT) for read in reader.kinds(texts)] for kind, texts in answer.follow_ups.items()
    }


def _sizes(
    model: Any, tokenizer: Any, answer: Answer, template: HindsightTemplate, batch_size: int
) -> Iterator[tuple[str, float | None, list[float]]]:
    """Yield (kind, margin, size for each of the kind's follow-ups) of one answer."""
    follow_ups = [(kind, text) for kind, texts in answer.follow_ups.items() for text in texts]
    shown = [text for _, text in follow_ups] + [NULL_FOLLOW_UP]
    contexts = [encode_prompt(tokenizer, with_hindsight(answer.messages, text, template)) for text in shown]
    contexts.append(encode_prompt(tokenizer, answer.messages))
    logps_BT = score(model, contexts, [answer.completion] * len(contexts), batch_size).logps_BT
    null_T, bare_T = logps_BT[-2], logps_BT[-1]
    for margin in MARGINS:
        by_kind: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for (kind, _), logps_T in zip(follow_ups, logps_BT, strict=False):
            change_T = logps_T - bare_T if margin is None else softshrink(logps_T - null_T, margin)
            by_kind[kind].append(change_T.abs().mean().item())
        for kind, values in by_kind.items():
            yield kind, margin, values


def _ratios(sizes: dict[str, list[float]]) -> dict[str, Any]:
    """Return the mean size of each kind, complaint / unrelated and thanks / complaint; each row is one answer."""
    groups = list(range(len(sizes["complaint"])))
    floor = {kind: [max(value, 1e-9) for value in values] for kind, values in sizes.items()}
    above, above_interval = ratio_interval(floor["complaint"], floor["unrelated"], groups)
    thanks, thanks_interval = ratio_interval(floor["thanks"], floor["complaint"], groups)
    return {
        **{kind: round(fmean(values), 4) for kind, values in sizes.items()},
        "complaint_over_unrelated": [round(value, 3) for value in (above, *above_interval)],
        "thanks_over_complaint": [round(value, 3) for value in (thanks, *thanks_interval)],
    }
