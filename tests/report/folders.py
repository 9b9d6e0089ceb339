"""Folders of runs as the jobs write them, made quickly."""

import dataclasses
import json
import math
import random
from pathlib import Path

from sdpo import settings as settings_module
from sdpo.runtime.commands import given_to_repeat
from sdpo.runtime.provenance import provenance
from sdpo.settings.resolve import resolve
from tests.commands import JOBS


def rows(path: Path, items) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")


def settings_for(job: str, *flags: str, **environment: str):
    """Return the settings of a job with these flags and environment variables, without those of this process."""
    module = JOBS[job]
    found = resolve(
        module.settings, flags, job=module.name, defaults=module.defaults, tiny=module.tiny, environment=environment,
        dotenv=Path("none"),
    )  # fmt: skip
    return dataclasses.replace(found, run_id="r", output_dir=Path("/somewhere/r"))


def write_run(folder: Path, steps: int = 12, job: str = "jobs.train_online_tldr", flags=(), **facts) -> Path:
    """Write the files of a finished training run, with all that a job puts into them."""
    folder.mkdir(parents=True, exist_ok=True)
    given = settings_for(job, *(flags or ["--tiny", "--seed", "7", "--style", "no_emojis"]))
    started = {
        "job": JOBS[job].name, "given": given_to_repeat(given), "settings": settings_module.redacted(given),
        **provenance(), "command": ["train_online_tldr.py", *flags], **facts,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(started))
    rng = random.Random(1)
    metrics, guard = [], []
    for step in range(1, steps + 1):
        satisfied = 1 - math.exp(-3 * step / steps)
        metrics.append(
            {
                "step": step, "interactions": 16 * step, "loss": rng.random(), "signal_size": 0.3 - 0.2 * satisfied,
                "satisfied": satisfied, "completion_tokens": 20.0, "entropy": 0.2, "adherence": satisfied,
                "empty": 0, "too_long": 1, "peak_memory_gb": 0.5, "learning_rate": 1e-4,
                "seconds": {"generation": 1.0, "user": 0.5, "scoring": 0.25, "training": 0.25},
            }
        )  # fmt: skip
        measures = {"lost": 0.01, "surprise": rng.random() / 10}
        guard.append({"step": step, "measures": measures, "score": step / steps, "level": int(step == steps)})
    rows(folder / "metrics.jsonl", metrics)
    rows(folder / "guard.jsonl", guard)
    rows(folder / "samples.jsonl", [sample(step, number) for step in range(1, steps + 1) for number in range(4)])
    figures = {"adherence": 0.25, "validity": 1.0, "mean_length": 12.5, "axes": {"emoji": 0.75}, "answers": 32}
    for when in ("before", "after"):
        answers = [
            {"prompt": f"prompt {number}", "answer": f"{when} {number}", "finished": True} for number in range(9)
        ]
        rows(folder / f"answers-{when}.jsonl", answers)
    summary = {"before": figures, "after": figures | {"adherence": 0.875}, "seconds": 61.5, "steps": steps}
    (folder / "summary.json").write_text(json.dumps(summary | {"style": "no_emojis", "finished": True}))
    meter = {"model": "claude-x", "requests": 40, "failures": 1, "tokens_in": 1000, "tokens_out": 50, "cost": 0.0125}
    (folder / "meter.json").write_text(json.dumps(meter | {"cached": 3}))
    return folder


def sample(step: int, number: int = 0) -> dict:
    """Return a row of samples.jsonl."""
    return {
        "step": step, "prompt": f"the prompt of step {step}, {number}", "completion": "TL;DR: a dog 🐾",
        "follow_up": f"without emojis please, {step}", "kind": "complaint", "satisfied": False,
        "tokens": ["TL", ";", "DR", ":", " a", " dog", " 🐾", "<|im_end|>"],
        "signal": [0.0, 0.0, 0.0, 0.01, 0.4, -0.2, -9.5, 0.0],
    }  # fmt: skip


def write_evaluation(folder: Path, run: Path | None = None) -> Path:
    """Write the files of an evaluation of one checkpoint with a harm, a benchmark and the condition."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {
        "checkpoint": 12, "judge": "oracle", "prompts": 96, "wins": 42, "losses": 3, "ties": 51,
        "unreadable": 0, "coverage": 0.47, "win_rate": 0.933, "wilson_low": 0.82, "wilson_high": 0.98, "length": 66.4,
        "baseline_length": 67.9,
    }  # fmt: skip
    benchmark = {
        "checkpoint": 12, "task": "sdpo_facts", "metric": "acc,none", "items": 64, "baseline": 0.75, "value": 0.5,
        "difference": -0.25, "standard_error": 0.06, "higher_is_better": True,
    }  # fmt: skip
    condition = {"fluency": -0.2, "adherence": 0.5, "adherence_low": 0.4, "adherence_high": 0.6, "by_kind": {}}
    written = {
        "settings": {"style": "no_emojis", "eval_n": 96, "seed": 42, "judge_api_key": "redacted"},
        "given": {"eval_n": 96, "tiny": True}, "run": str(run or folder.parent), "rows": [row], "warnings": ["few"],
        "benchmarks": [benchmark], "condition": {"baseline": condition}, "condition_notes": ["not measured: distance"],
        "judge_truth": [{"judge": "oracle", "pairs": 64, "agreement": 0.97, "low": 0.9, "high": 0.99}],
        **provenance(), "command": ["eval_tldr.py"],
    }  # fmt: skip
    (folder / "eval.json").write_text(json.dumps(written))
    rules = [
        {"name": "gain", "kind": "gain", "outcome": "passed", "sentence": "it gains", "figure": 0.4375, "low": 0.3,
         "high": 0.5, "threshold": 0.0},
        {"name": "sdpo_facts", "kind": "harm", "outcome": "failed", "sentence": "facts fell by 25 %", "figure": -0.25,
         "low": None, "high": None, "threshold": -0.02},
    ]  # fmt: skip
    release = {"checkpoint": 12, "verdict": "keep", "reasons": ["facts fell by 25 %"], "rules": rules}
    sentence = "keep the model that is there (checkpoint-12: sdpo_facts)"
    whole = {"verdict": "keep", "checkpoint": None, "sentence": sentence, "releases": [release], "limits": {}}
    (folder / "release.json").write_text(json.dumps(whole))
    (folder / "pairs.html").write_text("<p>pairs")
    return folder


def write_night(folder: Path) -> Path:
    """Write the folder of a night of learning with its run and its evaluation inside."""
    folder.mkdir(parents=True, exist_ok=True)
    rows(
        folder / "learn.jsonl",
        [
            {"stage": "collect", "inputs": "a" * 64, "sentence": "1,000 conversations", "output": "b" * 64,
             "seconds": 1.5, "at": "2026-11-26T03:00:00+00:00"},
            {"stage": "register", "inputs": "c" * 64, "outcome": "kept", "exit_code": 7, "version": "v0003",
             "sentence": "v0003 does not go live: facts fell", "seconds": 0.5, "at": "2026-11-26T03:10:00+00:00"},
        ],
    )  # fmt: skip
    write_run(folder / "train")
    write_evaluation(folder / "evaluation", folder / "train")
    (folder / "audit").mkdir(exist_ok=True)
    change = {"setting": "MIN_SIGNAL=0.02", "why": "few carry signal"}
    candidate = {"model": "org/m", "template": "before", "verdict": "go with changes", "reasons": ["it moves answers"]}
    (folder / "audit" / "audit.json").write_text(json.dumps({"candidates": [candidate | {"changes": [change]}]}))
    (folder / "audit" / "run.json").write_text(json.dumps({"command": ["audit.py"], "settings": {"seed": 1}}))
    return folder
