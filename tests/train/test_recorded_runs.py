"""Runs that an earlier version of the code began: they resume and evaluate as that version would have.

`recorded/` holds one online and one offline run on a model of a few thousand random weights, as commit 20fb222
wrote them until it was killed after step 2. `*-uninterrupted.jsonl` are the metrics of the same runs without the kill.
Paths in them are placeholders; tokenizer files, pictures and pages are left out.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from sdpo.tiny import MODEL_DIR
from tests import forks
from tests.worlds import PROJECT, environment, rows_of

pytestmark = pytest.mark.slow

RECORDED = Path(__file__).with_name("recorded")
COMMON = {"bs": 16, "save_steps": 2, "log_steps": 1, "seed": 7, "lr": 0.01}
JOBS = {
    "online": (
        "train_online_tldr",
        COMMON
        | {"replay_jsonl": "replay.jsonl", "style": "no_emojis", "train_n": 128, "eval_n": 4, "eval_batch_size": 4}
        | {"teacher": "ema", "objective": "full", "max_completion_tokens": 24},
    ),
    "offline": (
        "train_offline",
        COMMON
        | {"train_jsonl": "interactions.jsonl", "style": "short", "bs": 4, "ga": 1, "epochs": 2, "eval_n": 0}
        | {"teacher": "frozen", "objective": "token", "min_signal": 0, "holdout": 0},
    ),
}
COMPARED = ("interactions", "loss", "signal", "signal_size", "entropy", "completion_tokens", "learning_rate")


@pytest.fixture
def recorded(tmp_path) -> Path:
    """Return a copy of the recorded runs with real paths and the tokenizers that were left out."""
    folder = tmp_path / "recorded"
    shutil.copytree(RECORDED, folder)
    for path in folder.rglob("*.json*"):
        text = path.read_text("utf-8")
        path.write_text(text.replace("@RECORDED@", str(folder)).replace("@PROJECT@", str(PROJECT)), "utf-8")
    for model in (folder / "model", *folder.glob("*/checkpoint-2")):
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(MODEL_DIR / name, model)
    return folder


def run(job: str, folder: Path, flags: dict) -> str:
    """Run a job on the tiny world and return what it printed."""
    flat = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    done = forks.run(
        [sys.executable, "-m", f"jobs.{job}", "--tiny", *flat],
        env=environment(WANDB_MODE="offline"), cwd=folder, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-30:])
    return done.stdout


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_a_run_of_an_earlier_version_resumes_to_the_same_curve(kind, recorded):
    job, flags = JOBS[kind]
    before = rows_of(recorded / kind / "metrics.jsonl")
    assert [row["step"] for row in before] == [1, 2]
    data = {name: recorded / value for name, value in flags.items() if str(value).endswith(".jsonl")}
    # They recorded the model under an earlier name, by which it can still be given, as it can by the present one.
    name = "model_name_or_path" if kind == "online" else "model"
    places = {name: recorded / "model", "output_dir": recorded / kind, **data}
    printed = run(job, recorded, flags | places)
    assert "after step 2" in printed
    resumed = rows_of(recorded / kind / "metrics.jsonl")
    expected = rows_of(recorded / f"{kind}-uninterrupted.jsonl")
    assert resumed[:2] == before and len(resumed) == len(expected) > 4
    for row, other in zip(resumed, expected, strict=True):
        # Another kind of CPU adds in another order.
        assert [row[name] for name in COMPARED] == pytest.approx([other[name] for name in COMPARED], rel=1e-3, abs=1e-5)
    assert json.loads((recorded / kind / "summary.json").read_text("utf-8"))["finished"]


def test_an_evaluation_of_an_earlier_version_is_found_again(recorded):
    folder = recorded / "online" / "eval"
    earlier = json.loads((folder / "eval.json").read_text("utf-8"))
    flags = {"run_dir": recorded / "online", "ckpts": 2, "eval_n": 8, "judge_model": "oracle tiny", "judge_truth": 0}
    run("eval_tldr", recorded, flags | {"max_completion_tokens": 16, "fail_on_keep": 0})
    now = json.loads((folder / "eval.json").read_text("utf-8"))
    assert sum(earlier["generated"].values()) == 16 and sum(now["generated"].values()) == 0
    assert len(rows_of(folder / "verdicts-0.jsonl")) == 8
    for name in ("agreement", "weights", "persona"):
        assert now[name] == earlier[name], name
    # A checkpoint without a win rate was a row with its problem; it is an error at once now.
    rows = [{name: row[name] for name in row if name != "problem"} for row in earlier["rows"]]
    # Each of these prompts is of its own conversation, of which earlier versions knew nothing.
    assert now["rows"] == [row | {"design_effect": 1.0} for row in rows]
    assert {name: now["settings"][name] for name in earlier["settings"]} == earlier["settings"]
    assert ["truncated" in text or "cut off" in text for text in (now["warnings"][-1], *earlier["warnings"])] == [
        True
    ] * 2
    assert len(now["warnings"]) == 2 and "no answer is judged better" in now["warnings"][0], (
        "all of its verdicts are ties"
    )
    assert not (folder / "earlier").exists()
