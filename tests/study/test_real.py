"""The study on real models, end to end on the tiny model: every part, resumed without a second run, and its tables."""

import json
import shutil
import subprocess
import sys

import pytest

from sdpo.english.prompts import prompts
from sdpo.errors import SettingError
from sdpo.study import real, real_signal, real_tables
from sdpo.study.real_training import TrainingSpec
from sdpo.tiny import MODEL_DIR
from tests.commands import JOBS, ROOT, clean_environment

FIGURES = {
    "adherence": 0.2,
    "validity": 1.0,
    "mean_length": 50.0,
    "fluency": -2.0,
    "surprise": 0.0,
    "topic": 1.0,
    "leak": 0.0,
    "distance": 0.0,
}


def row(**after) -> dict:
    before = FIGURES | {"axes": {"no_lists": 0.5}}
    shown = before | {"adherence": 0.6, "axes": {"no_lists": 0.7}}
    good = before | {"adherence": 0.9, "topic": 0.9, "fluency": -2.1, "distance": 0.03, "axes": {"no_lists": 0.55}}
    names = {"model": "m", "style": "brief", "variant": "RECIPE=recommended", "seed": 0, "interactions": 240}
    return {"kind": "training", **names, "before": before, "shown": shown, "after": good | after, "stopped": None}


@pytest.mark.parametrize(
    ("after", "missed"),
    [
        ({}, None),
        ({"adherence": 0.71}, None),  # a gain of half
        ({"adherence": 0.69}, "style"),
        ({"fluency": -2.16}, "fluency"),
        ({"topic": 0.79}, "on topic"),
        ({"distance": 0.06}, "distance"),
        ({"axes": {"no_lists": 0.39}}, "other styles"),
        ({"axes": {"no_lists": 0.79}}, None),  # the wish itself moves it to 0.7
        ({"axes": {"no_lists": 0.81}}, "other styles"),
        ({"leak": 0.02}, "no leaks"),
    ],
)
def test_a_run_reaches_the_line_only_with_all_of_it(after, missed):
    result = real_tables.reached(row(**after))
    assert [name for name, passed in result.items() if not passed] == ([missed] if missed else [])
    assert f"| {missed or '-'} |" in real_tables.report([row(**after)])


@pytest.mark.parametrize(
    ("after", "stopped", "success"),
    [
        ({}, None, True),
        ({"adherence": 0.46}, None, True),
        ({"adherence": 0.44}, None, False),  # less than half of the gain
        ({"fluency": -2.2}, None, False),
        ({"topic": 0.7}, None, False),
        ({"distance": 0.2, "leak": 0.1}, None, True),  # an audit cannot foresee how far training goes
        ({}, {"step": 4}, False),
        ({"before": 0.9, "adherence": 0.95}, None, False),  # nothing was to be learned
    ],
)
def test_the_audit_is_compared_with_what_training_did(after, stopped, success):
    trained = row(**after) | {"stopped": stopped}
    trained["before"] = trained["before"] | {"adherence": after.get("before", 0.2)}
    assert real_tables.succeeded(trained) is success
    names = {name: trained[name] for name in ("model", "style", "variant")}
    audit = {"kind": "audit", **names, "verdict": "go with changes", "preference": {"wins": 8, "losses": 2}}
    other = audit | {"style": "no_lists"}  # nothing was trained
    text = real_tables.report([trained, audit, other])
    assert f"| go with changes | 8 of 10 | {int(success)} of 1 | {'yes' if success else 'no'} |" in text
    assert f"agrees with the outcome in {int(success)} of 1" in text


def test_the_table_says_how_far_other_styles_moved_and_how_far_beyond_the_wish():
    assert "| 0.31 / 0.11 |" in real_tables.report([row(axes={"no_lists": 0.81})])


def resolved(tmp_path, **changes):
    from sdpo.settings.resolve import resolve

    flags = [part for name, value in changes.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    job = JOBS["jobs.study_real"]
    return resolve(job.settings, flags, job=job.name, environment={}, dotenv=tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": "signals"}, "Did you mean signal"),
        ({"templates": "befor"}, "Did you mean before"),
        ({"styles": "breif"}, "brief"),
        ({"variants": "LR 1e-4"}, "NAME=value|setting such as"),
        ({"model": "org/tiny runs/a/merged runs/b/merged/"}, "two models are named merged"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_a_model_is_loaded(tmp_path, changes, message):
    with pytest.raises(SettingError, match=message):
        real.check(resolved(tmp_path, **changes), JOBS["jobs.study_real"])


def test_the_key_of_a_run_is_a_folder_name_and_tells_runs_apart():
    keys = {
        TrainingSpec(model, style, variant, seed, 240).key
        for model in ("a/b", "c") for style in ("brief", "no_lists") for variant in ("LR=1e-4", "LR=1e-4 BS=2")
        for seed in (0, 1)
    }  # fmt: skip
    assert len(keys) == 16 and all(set(key) <= set("abcdefghijklmnopqrstuvwxyzLRBS_0123456789.-") for key in keys)


class ReadsByWords:
    """Stands for a reader of follow-ups: a complaint has the word "please"."""

    def kinds(self, texts):
        return ["complaint" if "please" in text else "thanks" for text in texts]


def test_with_complaints_alone_the_other_messages_count_as_they_are_read():
    follow_ups = {"complaint": ["please", "no"], "thanks": ["thanks", "thanks"], "unrelated": ["please", "rain"]}
    answer = real_signal.Answer(prompts("validation")[0], [1, 2], follow_ups)
    assert real_signal.weights_of(ReadsByWords(), answer) == {
        "complaint": [1.0, 0.0], "thanks": [0.0, 0.0], "unrelated": [1.0, 0.0],
    }  # fmt: skip


def test_the_signal_table_has_the_ratios_with_complaints_alone_where_they_were_measured():
    ratios = {"complaint_over_unrelated": [0.76, 0.64, 0.91], "thanks_over_complaint": [0.35, 0.3, 0.4]}
    sizes = {"complaint": 0.1, "thanks": 0.05, "unrelated": 0.2}
    row = {"kind": "signal", "model": "m", "template": "before", "margin": 0.0, **sizes, **ratios}
    alone = {"complaint_over_unrelated": [7.6, 3.0, 1e7], "thanks_over_complaint": [0.0, 0.0, 0.0]}
    text = real_tables.report([row, {**row, "margin": None, "complaints_alone": alone}])
    assert "| 0.76 (0.64 to 0.91) | not measured | 0.35 (0.30 to 0.40) | not measured |" in text
    assert "| 7.60 (3.00 to over 100) |" in text and "| 0.00 (0.00 to 0.00) |" in text


@pytest.mark.slow
def test_the_study_runs_on_a_model_and_repeats_nothing(tmp_path):
    model = shutil.copytree(MODEL_DIR, tmp_path / "some-model")  # in its own folder the tiny world reads its styles
    command = [
        sys.executable, "-m", "jobs.study_real", "--model", str(model), "--study-dir", str(tmp_path / "docs"),
        "--study-table", str(tmp_path / "docs" / "real.md"), "--scratch", str(tmp_path / "runs"), "--styles", "brief",
        "--templates", "before", "--signal-prompts", "3", "--seeds", "1", "--interactions", "16", "--eval-n", "4",
        "--variants", "RECIPE=recommended; TEACHER=frozen OBJECTIVE=full LR=1e-4", "--max-completion-tokens", "12",
        "--audit-n", "12", "--parts", "signal,audit,training",
    ]  # fmt: skip

    def run() -> str:
        done = subprocess.run(command, env=clean_environment(), cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "train-online-helpsteer: 2 training runs, 0 of them done" in run()
    lines = (tmp_path / "docs" / "real.jsonl").read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["kind"] for row in rows].count("training") == 2
    trained = [row for row in rows if row["kind"] == "training"]
    assert {row["interactions"] for row in trained} == {16}
    assert all(set(FIGURES) <= set(row[when]) for row in trained for when in ("before", "shown", "after"))
    table = (tmp_path / "docs" / "real.md").read_text()
    assert "RECIPE=recommended" in table and "complaint / unrelated" in table
    signal = [row for row in rows if row["kind"] == "signal"]
    assert signal and all(set(row["complaints_alone"]) >= {"complaint", "unrelated"} for row in signal)
    audits = [row for row in rows if row["kind"] == "audit"]
    assert len(audits) == 2 and all(row["verdict"] and row["reasons"] for row in audits)
    assert "## What the audit said beforehand" in table and " of 2." in table
    again = run()
    assert (
        "train-online-helpsteer: 2 training runs, 2 of them done" in again
        and "some-model: 2 audits, 2 of them done" in again
    )
    assert (tmp_path / "docs" / "real.jsonl").read_text() == lines
    # A study that is killed after a run's end and before its line is written reads the finished run.
    (tmp_path / "docs" / "real.jsonl").write_text("".join(line + "\n" for line in lines.splitlines()[:-1]))
    assert "train-online-helpsteer: 2 training runs, 1 of them done" in run()
    assert (tmp_path / "docs" / "real.jsonl").read_text() == lines


@pytest.mark.slow
def test_the_study_trains_offline_on_a_log_of_the_model(tmp_path):
    model = shutil.copytree(MODEL_DIR, tmp_path / "some-model")
    command = [
        sys.executable, "-m", "jobs.study_real", "--model", str(model), "--study-dir", str(tmp_path / "docs"),
        "--study-table", str(tmp_path / "docs" / "real.md"), "--scratch", str(tmp_path / "runs"), "--styles", "brief",
        "--parts", "logs", "--seeds", "2", "--interactions", "16", "--eval-n", "4", "--max-completion-tokens", "12",
        "--variants", "TEACHER=frozen OBJECTIVE=full LR=1e-3 ADAPTER=lora",
    ]  # fmt: skip
    done = subprocess.run(command, env=clean_environment(), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "docs" / "real.jsonl").read_text().splitlines()]
    assert [(row["job"], row["seed"], row["interactions"]) for row in rows] == [
        ("train-offline", 0, 16),
        ("train-offline", 1, 16),
    ]
    assert all(set(FIGURES) <= set(row[when]) for row in rows for when in ("before", "shown", "after"))
    assert rows[0]["before"] != rows[0]["after"]
    logs = sorted((tmp_path / "runs" / "logs").rglob("*.jsonl"))
    assert [file.parent.name for file in logs] == ["train-16-0", "train-16-1", "validation-4-0", "validation-4-1"]
    first, second = (json.loads(file.read_text().splitlines()[0]) for file in logs[:2])
    assert first["prompt"] == second["prompt"] and first["completion"] != second["completion"]
    assert "| a log |" in (tmp_path / "docs" / "real.md").read_text()
