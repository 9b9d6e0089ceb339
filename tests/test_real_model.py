"""The jobs on a small real model: SDPO_REAL_MODEL names its folder; without it these tests are skipped.

They show that the path works with a real tokenizer, template and vocabulary. What such a model learns is measured by
`make study-real`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdpo.english.follow_up_kinds import FollowUpReader, labelled_messages
from sdpo.english.prompts import prompts
from sdpo.english.styles import complaints
from sdpo.errors import KEEP_EXIT_CODE
from sdpo.method.scoring import pack_rows
from sdpo.models.policy import load_model
from sdpo.text.records import Interaction, interaction_lines
from tests.commands import ROOT, clean_environment

MODEL = os.environ.get("SDPO_REAL_MODEL", "")

STOPPED = 6  # the audit's exit code for the verdict "stop"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MODEL, reason="SDPO_REAL_MODEL is not set")]


def run(job: str, *flags: object, expect: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *map(str, flags)],
        env=clean_environment(WANDB_MODE="offline"), cwd=ROOT, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode in expect, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return the run directory of three batches of the demo, which trains by the recommended settings."""
    folder = tmp_path_factory.mktemp("real")
    run("prep_english", "--out-dir", folder / "prompts")
    run(
        "demo_real", "--lr", 1e-3, "--model-name-or-path", MODEL, "--style", "exclamation",
        "--data-path", folder / "prompts", "--train-n", 12, "--bs", 4, "--max-completion-tokens", 32,
        "--eval-n", 4, "--save-steps", 4,
        "--output-dir", folder / "run", "--precision", "fp32",
    )  # fmt: skip
    return folder / "run"


def test_training_measures_its_answers_and_moves_only_the_adapter(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["finished"] and summary["steps"] == 6  # three batches, two passes over each
    for when in ("before", "shown", "after"):
        figures = summary[when]
        assert {"adherence", "fluency", "surprise", "topic", "leak", "distance"} <= set(figures)
        assert figures["fluency"] < 0 < figures["topic"]
    assert summary["before"]["distance"] == pytest.approx(0, abs=1e-5) and summary["after"]["distance"] > 0
    names = {path.name for path in (trained / "checkpoint-4").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    rows = [json.loads(line) for line in (trained / "samples.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} <= {"complaint", "thanks"}, "the rule user states whether it is satisfied"


def test_the_run_is_evaluated_by_the_rule(trained):
    printed = run(
        "eval_helpsteer", "--run-dir", trained, "--judge-model", "rule", "--eval-n", 8, "--ckpts", 4,
        "--data-path", trained.parent / "prompts", "--world-size", 1, expect=(0, KEEP_EXIT_CODE),
    )  # fmt: skip
    evaluated = json.loads((trained / "eval" / "eval.json").read_text())
    base, own = evaluated["condition"]["baseline"], evaluated["condition"]["checkpoint-4"]
    assert base["distance"] == pytest.approx(0, abs=1e-5) and own["distance"] > 0
    assert base["fluency"] < 0 and base["read"] == own["read"] == 8
    release = json.loads((trained / "eval" / "release.json").read_text())
    assert f"verdict: {release['sentence']}" in printed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_rows_can_be_packed(dtype):
    assert pack_rows(load_model(MODEL, dtype)[1])


def test_the_audit_reads_complaints_and_says_its_verdict(tmp_path):
    rows = [
        Interaction(
            id=f"row-{number}",
            conversation_id=f"conversation-{number}",
            turn_id=0,
            model="somebody",
            timestamp=None,
            prompt=[{"role": "user", "content": prompt.prompt}],
            completion="First, look at what you have. " * 8,
            user_response=complaints("brief")[number % 8],
        )
        for number, prompt in enumerate(prompts("train")[:8])
    ]
    data = tmp_path / "interactions.jsonl"
    data.write_text("".join(interaction_lines(rows)), "utf-8")
    run("audit", "--model", MODEL, "--data", data, "--audit-n", 8, "--max-completion-tokens", 16,
        "--output-dir", tmp_path / "audit", expect=(0, STOPPED))  # fmt: skip
    result = json.loads((tmp_path / "audit" / "audit.json").read_text())
    text = json.dumps(result)
    assert '"complaint"' in text and '"relevance"' in text


def test_the_reader_tells_held_out_wordings_apart():
    tokenizer, model = load_model(MODEL)
    model.eval()

    def with_model(function):
        with torch.no_grad():
            return function(model)

    rows = labelled_messages("test")[:61]  # the wordings of the rule users come first
    kinds = FollowUpReader(with_model, tokenizer).kinds([text for text, _ in rows])
    assert sum(kind == label for kind, (_, label) in zip(kinds, rows, strict=True)) / len(rows) >= 0.9
