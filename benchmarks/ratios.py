"""Ratios to plain baselines that hold on a busy machine too: tokens, forward passes and bytes, counted.

    python -m benchmarks.ratios [--check] [--write]

With --check (`make bench CHECK=1`) it ends with 1 if a ratio is more than MARGIN over that in `baseline.json`; --write
stores the measured ones there. Below one, a ratio is a saving; a slope is that of a log-log fit.

    teacher tokens       one pass for x, x o and x o∅ against a pass for each, by the place of the follow-up
    teacher forwards     the same, forward passes
    needed rows          the logits of an offline batch against those of every position, padding included
    memory               bytes alive at once in a step, against the float32 logits of its positions
    slope                of these bytes, without the weights, by vocabulary (4k to 16k) and by completion length
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.counting import LiveBytes, counted_passes
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import Objective
from sdpo.method.shared_prefix import takes_trees
from sdpo.method.teacher import Teacher

BASELINE = Path(__file__).with_name("baseline.json")
MARGIN = 0.05
OBJECTIVES = {
    "token": Objective(),
    "full": Objective(kind="full"),
    "full, jsd": Objective(kind="full", direction="jsd"),
    "top_k": Objective(kind="top_k"),
    "recommended": Objective(kind="full", null_contrast=True, contrast_strength=6.0, contrast_plausibility=0.05),
}
PLACES = {"after": 1.0, "before": 0.5, "system": 0.0}  # the share of the prompt before the follow-up


def build_model(vocabulary: int) -> Qwen3ForCausalLM:
    """Return a model of one small layer: what is counted does not depend on its width."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
            num_attention_heads=2, num_key_value_heads=1,
        )
    )  # fmt: skip


def lengths(count: int) -> list[tuple[int, int, int]]:
    """Return the tokens of prompt, completion and follow-up of the first rows of the file, a quarter of each."""
    rows = json.loads(Path(__file__).with_name("row_lengths.json").read_text("utf-8"))["rows"][:count]
    return [(max(2, x // 4), max(2, y // 4), max(2, o // 4)) for x, y, o in rows]


def teacher_ratios() -> dict[str, float]:
    """Return the tokens and the passes of the teacher's contexts, together against apart."""
    model, ratios = build_model(512), {}
    assert takes_trees(model)
    for place, share in PLACES.items():
        contexts, completions, apart = [], [], 0
        for number, (prompt, completion, follow_up) in enumerate(lengths(16)):
            x = [1 + (number + index) % 500 for index in range(prompt)]
            at = int(share * prompt)
            shown, null = [[mark] * size + x[at:] for mark, size in ((501, follow_up), (502, 4))]
            contexts.append(Contexts(x, x[:at] + shown, x[:at] + null))
            completions.append([3] * completion)
            apart += 3 * (prompt + completion) + follow_up + 4
        loss = HindsightLoss(Teacher("live", model), OBJECTIVES["recommended"], batch_size=1)
        with counted_passes(model) as passes:
            loss.teacher_targets(contexts, completions)
        ratios[f"teacher tokens, {place}"] = passes.tokens / apart
        ratios["teacher forwards"] = passes.forwards / (3 * len(contexts))
    return ratios


def needed_rows() -> float:
    """Return the logits that the completions of batches of four need, of those of every padded position."""
    rows = lengths(64)
    batches = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    every = sum(len(batch) * (max(row[0] for row in batch) + max(row[1] for row in batch)) for batch in batches)
    return sum(row[1] for row in rows) / every


def peak(objective: Objective, vocabulary: int = 4096, length: int = 144) -> int:
    """Return the bytes alive at once in a step of two rows, without the gradients of the weights."""
    model = build_model(vocabulary)
    loss = HindsightLoss(Teacher("live", model), objective, batch_size=2)
    contexts, completions = [Contexts([1, 2], [1, 3, 2], [1, 4, 2])] * 2, [[5 + n % 400 for n in range(length)]] * 2
    with LiveBytes() as counted:
        targets = loss.teacher_targets(contexts, completions)
        loss.loss(model, contexts, completions, targets, torch.ones(2)).loss.backward()
    return counted.peak - sum(weight.nbytes for weight in model.parameters())


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of a least-squares line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    return sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / spread


def measure() -> dict[str, float]:
    """Return all ratios and slopes by name."""
    ratios = teacher_ratios() | {"needed rows": needed_rows()}
    peaks = {name: peak(objective) for name, objective in OBJECTIVES.items()}
    ratios |= {f"memory, {name}": value / (4 * 4096 * 2 * 144) for name, value in peaks.items()}
    words, tokens = [4096, 8192, 16384], [80, 160, 320]
    ratios["slope, bytes by vocabulary"] = slope(words, [peak(OBJECTIVES["full"], vocabulary=size) for size in words])
    ratios["slope, bytes by length"] = slope(tokens, [peak(OBJECTIVES["full"], length=size) for size in tokens])
    return ratios


def worse(measured: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """Return a line for each ratio that is more than MARGIN over its baseline, or that only one of them has."""
    lines = [
        f"{name}: {measured[name]:.3f}, {value:.3f} in {BASELINE.name}"
        for name, value in baseline.items()
        if name in measured and measured[name] > value + MARGIN * abs(value)
    ]
    return lines + [f"{name}: only in one of them" for name in sorted(measured.keys() ^ baseline.keys())]


def main() -> None:
    """Print the ratios; check them or store them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measured = {name: round(value, 4) for name, value in measure().items()}
    for name, value in measured.items():
        print(f"{name:30} {value:.3f}")
    if given.write:
        BASELINE.write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
    if given.check and (lines := worse(measured, json.loads(BASELINE.read_text("utf-8")))):
        sys.exit("\n".join(["worse than before:", *lines, "If that is meant: python -m benchmarks.ratios --write"]))


if __name__ == "__main__":
    main()
