"""The two forward passes of an offline step against a padded baseline: seconds per row, peak memory, padding.

    python -m benchmarks.offline [--repeats 3]

64 rows with the lengths in `row_lengths.json`, 4 per batch; a model of hidden size 128, 4 layers, vocabulary 32,768.
The baseline takes the rows in file order, pads contexts on the left and completions on the right, and computes the
logits of every position in both passes. The other variants are the trainer's loss in its two layouts. Each variant
runs in a process of its own.
"""

import json
from pathlib import Path
from random import Random

import torch
from transformers import Qwen3ForCausalLM

from benchmarks.scoring import VOCABULARY, build_model, padded_scores
from benchmarks.variants import compare, timed
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import Objective, after_first, signal, token_loss
from sdpo.method.scoring import pack_rows
from sdpo.method.teacher import Teacher

BATCH = 4
VARIANTS = ("baseline", "grouped", "packed")


def draw_rows() -> list[tuple[list[int], list[int], list[int]]]:
    """Return (context, context with the follow-up, completion) of random ids, with the lengths in the file."""
    rng, lengths = Random(0), json.loads(Path(__file__).with_name("row_lengths.json").read_text("utf-8"))["rows"]

    def ids(count: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(count)]

    rows = [(ids(prompt), ids(follow_up), ids(completion)) for prompt, completion, follow_up in lengths]
    return [(context, context + shown, completion) for context, shown, completion in rows]


def batches(variant: str) -> list[list]:
    """Return the rows in batches: in file order, for the grouped layout sorted by length."""
    rows = draw_rows()
    if variant == "grouped":
        rows.sort(key=lambda row: len(row[0]) + len(row[2]))
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def padded_share(variant: str) -> float:
    """Return the share of padding among the positions of both forward passes."""
    padded = total = 0
    for batch in batches(variant):
        for contexts in ([row[0] for row in batch], [row[1] for row in batch]):
            rows = [len(context) + len(row[2]) for context, row in zip(contexts, batch, strict=True)]
            width = {
                "baseline": max(map(len, contexts)) + max(len(row[2]) for row in batch),
                "grouped": max(rows),
                "packed": sum(rows) / len(rows),
            }[variant]
            total += width * len(rows)
            padded += width * len(rows) - sum(rows)
    return padded / total


def measure(variant: str, repeats: int) -> dict[str, float]:
    """Return the median seconds per row, the increase of the process's peak memory in GB, and the share of padding."""
    torch.set_num_threads(2)
    model = build_model()
    if variant == "packed":
        assert pack_rows(model)
    loss = HindsightLoss(Teacher("live", model), Objective(centre=False, ignore_first_k=2), BATCH)
    rows = batches(variant)

    def epoch() -> None:
        for batch in rows:
            contexts, hindsight, completions = (list(column) for column in zip(*batch, strict=True))
            if variant == "baseline":
                baseline_step(model, contexts, hindsight, completions)
            else:
                pairs = [Contexts(*pair) for pair in zip(contexts, hindsight, strict=True)]
                targets = loss.teacher_targets(pairs, completions)
                loss.loss(model, pairs, completions, targets, torch.ones(len(batch))).loss.backward()
            model.zero_grad()

    measured = timed([epoch] * repeats)
    measured["seconds"] /= BATCH * len(rows)
    return measured | {"padded": padded_share(variant)}


def baseline_step(
    model: Qwen3ForCausalLM, contexts: list[list[int]], hindsight: list[list[int]], completions: list[list[int]]
) -> None:
    """Run two padded forward passes with the logits of every position, and the backward pass."""
    with torch.no_grad():
        teacher, _ = padded_scores(model, hindsight, completions)
    policy, mask = padded_scores(model, contexts, completions)
    mask = after_first(mask, 2)
    advantages = signal(teacher, policy, mask)
    token_loss(policy, policy.detach(), advantages, mask, torch.ones(len(contexts)), 0.2).backward()


if __name__ == "__main__":
    compare("benchmarks.offline", __doc__, VARIANTS, measure, repeats=3)
