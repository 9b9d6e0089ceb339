"""A dry run prints the command that would run, which itself must run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.report import JOB
from sdpo.data import logs
from sdpo.data.sources import CONVERSATION_SOURCES
from sdpo.runtime import launch
from sdpo.settings.inputs import INTERACTIONS_BY
from sdpo.text.split import is_held_out
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.data import logged
from tests.commands import ROOT, clean_environment
from tests.training import write_interactions, write_model


@pytest.mark.parametrize("flag", [["--dry-run"], ["--dry-run", "1"], ["--dry-run=1"], ["DRY_RUN=1"]])
@pytest.mark.parametrize("first", [True, False])
def test_the_printed_command_is_the_given_one_without_the_dry_run(flag, first):
    others = ["SEED=1", "--tiny"]
    given = [*flag, *others] if first else [*others, *flag]
    line = [sys.executable, "-m", "jobs.report", *given]
    done = subprocess.run(line, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("-m jobs.report SEED=1 --tiny")


@pytest.mark.parametrize("job", ["plan", "report"])
def test_a_reader_that_ends_early_is_no_error(job):
    line = [sys.executable, "-m", f"jobs.{job}", "--tiny", *(["--dry-run"] if job == "report" else [])]
    with subprocess.Popen(
        line, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141


def test_another_pipe_that_breaks_is_not_taken_for_the_output(monkeypatch):
    def broken(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(launch, "_main", broken)
    with open(os.devnull, "w") as somewhere:
        monkeypatch.setattr("sys.stdout", somewhere)
        monkeypatch.setattr("sys.stderr", somewhere)
        with pytest.raises(BrokenPipeError):
            launch.main(JOB, [])


def test_an_exported_variable_that_is_almost_a_setting_is_noted():
    line = [sys.executable, "-m", "jobs.train_online_tldr", "--dry-run", "--tiny"]
    variables = clean_environment() | {"RECEIPE": "recommended"}
    done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "note: the environment has RECEIPE, which is not a setting. Did you mean RECIPE?" in done.stdout


def test_a_value_of_the_environment_in_place_of_the_tiny_worlds_is_noted(tmp_path):
    def notes(*flags: str, **variables: str) -> list[str]:
        line = [sys.executable, "-m", "jobs.train_online_tldr", "--dry-run", *flags]
        done = subprocess.run(line, cwd=ROOT, env=clean_environment() | variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if "TINY=1 does not replace" in line]

    model = write_model(tmp_path / "model")
    assert notes("--tiny", MODEL=str(model), BS="8") == [
        f"note: the environment has MODEL={model}, BS=8, which TINY=1 does not replace: unset MODEL BS"
    ]
    (recipe,) = notes("--tiny", RECIPE="recommended")
    assert recipe.endswith("has RECIPE=recommended, which TINY=1 does not replace: unset RECIPE")
    assert notes("--tiny", "--model", str(model)) == [] == notes("--tiny", SEED="3") == notes("--tiny")


def dry_run(job: str, folder: Path, **values: object) -> subprocess.CompletedProcess:
    """Return the dry run of a job with these settings, started in the folder."""
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    line = [sys.executable, "-m", f"jobs.{job}", "--dry-run", *flags]
    return subprocess.run(line, cwd=folder, env=clean_environment(), capture_output=True, text=True)


def only_line(done: subprocess.CompletedProcess) -> str:
    """Return the one line of an error; nothing else was printed."""
    assert done.returncode and not done.stdout, done.stdout
    (line,) = done.stderr.splitlines()
    return line


def test_offline_training_counts_its_rows_against_a_step(tmp_path):
    write_interactions(tmp_path / "logs.jsonl", 100)
    given = {"model": MODEL_DIR, "gpus": 1, "bs": 4, "ga": 3, "epochs": 2, "holdout": 0.2, "report_to": "none"}
    done = dry_run("train_offline", tmp_path, train_jsonl="logs.jsonl", **given)
    assert done.returncode == 0, done.stderr
    held_out = sum(is_held_out(row.conversation_id, 0.2) for row in logged(100, seed=1))
    steps = -(-((100 - held_out) // 4) // 3)
    assert "logs.jsonl: 100 interactions of 100 conversations" in done.stdout
    assert f"{100 - held_out} rows to train on, {held_out} held out; a step takes 12 " in done.stdout
    assert "(BS=4 x GA=3 x GPUS=1)" in done.stdout
    assert f"{steps} steps an epoch, {2 * steps} in EPOCHS=2" in done.stdout
    assert f"time: {2 * steps} steps" in done.stdout  # the plan's
    waiting = (100 - held_out) % 4
    assert waiting and f", each without {waiting} rows, drawn anew, that fill no batch" in done.stdout

    few = dry_run("train_offline", tmp_path, train_jsonl="logs.jsonl", **given | {"ga": 30})
    assert only_line(few).endswith(
        f"{100 - held_out} rows to train on are fewer than the 120 that one step takes (BS=4 x GA=30 x GPUS=1). "
        "Lower BS or GA, set HOLDOUT=0, or add data."
    )


def test_offline_training_says_which_share_of_its_rows_are_complaints_by_their_words(tmp_path):
    words = ["Too long, please make it shorter."] * 3 + ["Thanks, perfect!"] * 2 + ["And in Rome?"] * 5
    rows = [
        {
            "id": str(number), "conversation_id": str(number), "turn_id": 1, "model": None, "timestamp": None,
            "prompt": [{"role": "user", "content": "q"}], "completion": "a long answer", "user_response": follow_up,
        }
        for number, follow_up in enumerate(words)
    ]  # fmt: skip
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"model": MODEL_DIR, "gpus": 1, "bs": 2, "ga": 1, "holdout": 0, "report_to": "none"}
    done = dry_run("train_offline", tmp_path, train_jsonl="logs.jsonl", learn_from="complaints", **given)
    assert done.returncode == 0, done.stderr
    assert (
        "LEARN_FROM=complaints: by their words 3 of 10 follow-ups (30 %) are complaints and 2 (20 %) praise; which of "
        "them are learned from is known once the loaded model has read them"
    ) in done.stdout
    assert "LEARN_FROM=complaints:" not in dry_run("train_offline", tmp_path, train_jsonl="logs.jsonl", **given).stdout


def test_the_file_of_training_has_another_name_in_the_audit(tmp_path):
    assert "Here it is --train-jsonl." in only_line(dry_run("train_offline", tmp_path, data="a.jsonl"))
    assert "Here it is --data." in only_line(dry_run("audit", tmp_path, train_jsonl="a.jsonl"))


def test_the_files_of_preparation_jobs_are_known_by_their_names():
    written = {source.output: job for job, source in CONVERSATION_SOURCES.items()} | {logs.LOGS: "prep-logs"}
    assert written == INTERACTIONS_BY


def test_an_audit_reads_all_of_its_data(tmp_path):
    write_interactions(tmp_path / "logs.jsonl", 60)
    good = dry_run("audit", tmp_path, model=MODEL_DIR, data="logs.jsonl", audit_n=20)
    assert good.returncode == 0, good.stderr
    assert "logs.jsonl: 60 interactions; 20 of them sampled (AUDIT_N), from 20 conversations" in good.stdout
    with (tmp_path / "logs.jsonl").open("a") as file:
        file.write('{"id": 3}\n')
    bad = only_line(dry_run("audit", tmp_path, model=MODEL_DIR, data="logs.jsonl"))
    assert "logs.jsonl, line 61: field id must be a non-empty string. Fix or remove that line." in bad
    write_interactions(tmp_path / "few.jsonl", 3)
    few = only_line(dry_run("audit", tmp_path, model=MODEL_DIR, data="few.jsonl"))
    assert "interactions of 3 conversations; an audit needs at least 8" in few


@pytest.mark.parametrize(("flags", "words"), [({}, "ports: free ones"), ({"demo_stay": 1}, "8787 for the gateway")])
def test_the_loops_demo_says_what_it_would_start_and_write(flags, words, tmp_path):
    done = dry_run("demo_loop", tmp_path, **flags)
    assert done.returncode == 0 and words in done.stdout and not list(tmp_path.iterdir())
    assert "24 users, played by rules, have 240 conversations" in done.stdout
    assert ("DEMO_STAY=1 leaves them running" in done.stdout) == (not flags)
    assert f"is written to {tmp_path / 'runs' / 'demo-loop'}" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("log.jsonl", "log.jsonl does not exist. In the current folder the nearest names are logs.jsonl, other.jsonl."),
        ("dat/log.jsonl", "There is no dat; in the current folder the nearest name is data."),
        ("logs.json", "In the current folder the nearest name is logs.jsonl."),
        ("zzz.csv", "zzz.csv does not exist. In the current folder there are "),
        ("data/logs/logs_interactions.jsonl", "Make it with make prep-logs"),
        ("data", "data is a folder. Give a file, such as data/inside.jsonl."),
    ],
)
def test_a_file_of_ones_own_that_is_missing_has_the_nearest_names(tmp_path, name, words):
    for one in ("logs.jsonl", "other.jsonl", "picture.png"):
        (tmp_path / one).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inside.jsonl").touch()
    for job, given in (("audit", {"data": name}), ("train_offline", {"train_jsonl": name, "gpus": 1})):
        line = only_line(dry_run(job, tmp_path, model=MODEL_DIR, **given))
        assert words in line and "wildfeedback" not in line
        assert f"{next(iter(given)).upper()}={name}" in line or "is a folder" in line


def test_the_default_file_that_is_missing_is_named_with_its_setting_too(tmp_path):
    line = only_line(dry_run("audit", tmp_path, model=MODEL_DIR))
    assert line.startswith("error: DATA=data/wildfeedback/wildfeedback_interactions.jsonl does not exist. Make it with")


def test_the_form_of_conversations_is_named_and_nothing_is_written(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    turns = [{"role": role, "content": role + " says"} for role in ("user", "assistant", "user")]
    (folder / "chats.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 3 + '{"foo": 1}\n')
    (folder / "notes.txt").write_text("hello")
    done = dry_run("prep_logs", tmp_path, input="logs")
    assert done.returncode == 0, done.stderr
    data = done.stdout.partition("data:\n")[2]
    assert "logs/chats.jsonl: 3 rows of the form OpenAI messages, 1 row dropped as a form that is not known" in data
    assert "first chats.jsonl, row 4, with the fields foo: 3 conversations, 3 interactions" in data
    assert "skipped: 1 (no conversations)" in data and "in all 3 interactions" in data
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    (folder / "chats.jsonl").write_text(json.dumps({"messages": turns[:2]}) + "\n")
    line = only_line(dry_run("prep_logs", tmp_path, input="logs/chats.jsonl"))
    assert line.endswith("1 conversations, 0 interactions. An interaction is an answer that the user replied to.")
    (folder / "chats.jsonl").write_text('{"foo": 1}\n')
    line = only_line(dry_run("prep_logs", tmp_path, input="logs/chats.jsonl"))
    assert "no row of a known form, 1 row dropped" in line and "the exports of ChatGPT" in line
