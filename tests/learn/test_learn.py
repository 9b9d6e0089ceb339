"""The learner as a job: its plan, its refusals, its ends without a version, and whole nights of the tiny world."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from sdpo.gateway.store import Store
from sdpo.learn import stages
from sdpo.learn.job import fill, identity
from sdpo.learn.journal import Journal
from sdpo.learn.night import Night
from sdpo.learn.stages import StageFailed, Stages, learner_lock, stage_lock
from sdpo.learn.stages import environment as stage_environment
from sdpo.registry import versions
from sdpo.registry.live import read_live
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import LearnSettings
from sdpo.settings.resolve import resolve
from sdpo.text.prompts import Message
from sdpo.text.records import interaction_lines
from sdpo.tiny import data, logged
from tests.commands import JOBS
from tests.servers import until
from tests.worlds import environment

JOB = JOBS["jobs.learn"]
# A night of twenty seconds: few rows, and an evaluation by the oracle alone.
SHORT = {
    "audit_settings": "AUDIT_N=40",
    "train_settings": "LR=3e-3 EPOCHS=2 EVAL_N=0 HOLDOUT=0 SAVE_STEPS=4 SAVE_LIMIT=2 GUARD=off TRAIN_N=160",
    "eval_settings": "JUDGE_TRUTH=0 CONDITION=0 EVAL_N=2000",
}


def messages_of(row) -> list[Message]:
    return [
        *row.prompt, {"role": "assistant", "content": row.completion}, {"role": "user", "content": row.user_response}
    ]  # fmt: skip


def write_logs(path: Path, rows) -> Path:
    """Write conversations of 40 users as lines of messages."""
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            line = {"id": row.id, "user": f"user-{number % 40}", "messages": messages_of(row)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def flags(folder: Path, **values) -> list[str]:
    given = {"registry": folder / "registry", "scratch": folder / "runs", **SHORT, **values}
    return ["--tiny", *(part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value)))]


def summary(folder: Path) -> dict:
    newest = max((folder / "runs" / "learn").glob("*/learn.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text("utf-8"))


@pytest.fixture(autouse=True)
def key(tmp_path):
    """The registry's key decides who is held out: the same persons in each run of a test."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / ".persons.key").write_bytes(b"key")


@pytest.fixture
def logs(tmp_path):
    return write_logs(tmp_path / "logs.jsonl", data.logged(260, seed=5))


# The plan and the refusals


def test_a_dry_run_says_what_there_is_and_writes_nothing(tmp_path, logs, capsys):
    assert main(JOB, [*flags(tmp_path, input=logs), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "logs.jsonl, 1 file\n" in shown and "live: the base model" in shown
    assert "collect → prepare → split → audit" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs.jsonl", "registry"]
    later = flags(tmp_path, input=logs, judge_model="m", judge_url="http://127.0.0.1:9/v1")
    assert main(JOB, [*later, "--dry-run"]) == 0
    assert "note: No server responds at http://127.0.0.1:9/health" in capsys.readouterr().out
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    for row in logged.interactions(5, seed=1):
        store.add_conversation([*messages_of(row), {"role": "assistant", "content": "ok"}], user="ann")
    given = flags(tmp_path, store_url=f"sqlite:///{tmp_path / 'store.sqlite'}", canary=0.25)
    assert main(JOB, [*given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "5 conversations in the store, 5 of them not learned from yet" in shown and "25% of the conv" in shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"train_settings": "LR"}, "NAME=value words"),
        ({"train_settings": "OUTPUT_DIR=x"}, "set by make learn itself"),
        ({"conversations": "unused"}, "files do not say"),
        ({"model": "./nowhere"}, "does not exist"),
        ({"train_settings": "LERNING_RATE=1"}, "TRAIN_SETTINGS: the flag --lerning-rate is not a setting"),
        ({"eval_settings": "EVAL_N=many"}, "EVAL_SETTINGS: "),
        ({"judge_model": "claude-x"}, "needs ANTHROPIC_API_KEY"),
        ({"judge_model": "./judge"}, "JUDGE_MODEL=./judge does not exist"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line_before_anything_is_written(tmp_path, logs, capsys, given, words):
    assert main(JOB, flags(tmp_path, input=logs, **given)) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "judge"),
    [
        ([], "'my models/a'"),
        (["--judge-model", "claude-x"], "claude-x"),
        (["--eval-settings", "JUDGE_MODEL=rule"], None),
    ],
)
def test_the_model_judges_itself_unless_another_judge_is_named(tmp_path, given, judge):
    """By default nothing that users said may leave the house."""
    arguments = ["--model", "my models/a", "--scratch", str(tmp_path), *given]
    settings = resolve(JOB.settings, arguments, job=JOB.name, defaults=JOB.defaults, tiny=JOB.tiny, environment={})
    assert fill(settings, JOB).judge_model == judge


def test_too_few_interactions_are_no_error(tmp_path, capsys):
    few = write_logs(tmp_path / "few.jsonl", data.logged(20, seed=5))
    assert main(JOB, flags(tmp_path, input=few)) == 0
    assert "too little was said" in capsys.readouterr().out
    assert summary(tmp_path)["outcome"] == "nothing new" and not versions.versions(tmp_path / "registry")


def test_a_store_without_a_conversation_is_no_error_and_says_so(tmp_path, capsys):
    Store(f"sqlite:///{tmp_path / 'store.sqlite'}").close()
    assert main(JOB, flags(tmp_path, store_url=f"sqlite:///{tmp_path / 'store.sqlite'}")) == 0
    assert "store.sqlite has no conversation yet" in capsys.readouterr().out


def test_a_store_without_anything_new_is_no_error(tmp_path, capsys):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    row = logged.interactions(1, seed=1)[0]
    name = store.add_conversation([*messages_of(row), {"role": "assistant", "content": "ok"}], started_at=1.0)
    store.mark_used([name], "v0001")
    assert main(JOB, flags(tmp_path, store_url=f"sqlite:///{tmp_path / 'store.sqlite'}")) == 0
    assert "all that was said has been learned from already" in capsys.readouterr().out
    store.add_conversation(messages_of(row)[:-1])  # an answer without a reply
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    given = flags(tmp_path, store_url=url, conversations="unused", run_id="another-night")
    assert main(JOB, given) == 0
    printed = capsys.readouterr().out
    assert "in none did a user reply to an answer" in printed
    night = Path(printed.partition("run directory: ")[2].splitlines()[0])
    assert night.is_dir() and not night.stat().st_mode & 0o077  # for its owner's eyes only


def test_a_second_learner_is_refused_and_a_dead_ones_lock_is_taken(tmp_path, logs, capsys):
    registry = tmp_path / "registry"
    code = "import sys, time; from pathlib import Path; from sdpo.learn.stages import learner_lock\n"
    code += "lock = learner_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(registry)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert main(JOB, flags(tmp_path, input=logs)) == 1
    error = capsys.readouterr().err
    assert f"process {holder.pid} on " in error and len(error.splitlines()) == 1
    # In the folder of the first one, whose page is its own.
    night = tmp_path / "night"
    night.mkdir()
    (night / "learn.jsonl").write_text('{"stage": "collect", "inputs": "", "sentence": "x"}\n')
    (night / "report.html").write_text("the first one's")
    assert main(JOB, flags(tmp_path, input=logs, output_dir=night)) == 1
    assert (night / "report.html").read_text() == "the first one's" and "another learner" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    holder.stdout.close()
    learner_lock(registry).close()


def test_a_night_goes_on_with_its_own_settings_only(tmp_path, logs, capsys):
    folder = tmp_path / "runs" / "learn" / "one"
    folder.mkdir(parents=True)
    given = replace(LearnSettings(), input=logs)
    RunDirectory(folder).write_json("run.json", {"identity": identity(given)})
    assert main(JOB, [*flags(tmp_path, input=logs, run_id="one")]) == 1
    error = capsys.readouterr().err
    assert "began with" in error and len(error.splitlines()) == 1
    RunDirectory(folder).write_json("learn.json", {"finished": True})
    assert main(JOB, flags(tmp_path, input=logs, run_id="one")) == 1
    assert "came to its end" in capsys.readouterr().err


@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_night_that_is_interrupted_says_how_to_go_on(tmp_path, logs, capsys, monkeypatch, end, code):
    def interrupted(night: Night) -> None:
        raise end

    monkeypatch.setattr(Night, "run", interrupted)
    try:
        assert main(JOB, flags(tmp_path, input=logs)) == code
    except SystemExit as error:
        assert error.code == code
    assert "the finished stages are kept; the same command goes on after them\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("train-offline: 0:07", ""),
        ("starting", " (starting)"),
        ("train-offline: loading", " (loading)"),
        (
            "scoring rows with the initial model: 4 of 7 batches (57 %), 3 s each",
            " (scoring rows with the initial model: 4 of 7 batches)",
        ),
        ("step    5/102  |signal| 0.602  0.75 s (answers 0.00, update 0.36)", " (step 5/102 |signal| 0.602 0.75 s)"),
        ("word " * 30, f" ({'word ' * 18}…)"),
    ],
)
def test_the_progress_of_a_night_shows_what_a_stage_says_without_its_times(line, shown):
    assert stages._said(line, "train-offline") == shown


def test_the_stages_do_not_take_the_learners_settings_for_theirs(monkeypatch):
    monkeypatch.setenv("INPUT", "x")
    monkeypatch.setenv("CONTINUE", "1")
    monkeypatch.setenv("LR", "1e-5")
    monkeypatch.setenv("JUDGE_API_KEY", "secret")
    given = stage_environment()
    assert not {"INPUT", "CONTINUE", "SDPO_MAKE_VARIABLES"} & set(given)
    assert given["LR"] == "1e-5" and given["JUDGE_API_KEY"] == "secret"


def test_the_journal_survives_half_a_line(tmp_path):
    journal = Journal(RunDirectory(tmp_path))
    journal.append({"stage": "collect", "inputs": "a", "sentence": "x"})
    with (tmp_path / "learn.jsonl").open("a") as file:
        file.write('{"stage": "prep')
    journal = Journal(RunDirectory(tmp_path))
    assert journal.result("collect", "a")["sentence"] == "x" and journal.result("collect", "b") is None
    journal.append({"stage": "prepare", "inputs": "b", "sentence": "y"})
    assert [row["stage"] for row in Journal(RunDirectory(tmp_path)).rows] == ["collect", "prepare"]


# Whole nights

# Kills of the learner in one night, at random moments; more by hand: SDPO_TEST_KILLS=20.
KILLS = int(os.environ.get("SDPO_TEST_KILLS", "3"))


@pytest.mark.slow
def test_an_audit_that_says_stop_ends_the_night(tmp_path, capsys):
    rows = data.logged(260, seed=5, unrelated=True)
    assert main(JOB, flags(tmp_path, input=write_logs(tmp_path / "logs.jsonl", rows))) == 6
    shown = capsys.readouterr().out
    assert "stopped: the audit says stop" in shown and not versions.versions(tmp_path / "registry")
    assert summary(tmp_path)["outcome"] == "stopped" and read_live(tmp_path / "registry").version is None


@pytest.mark.slow
def test_a_night_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path):
    """From a store to a version that is live, with kills of the learner at random moments."""
    random, store_url = Random(11), f"sqlite:///{tmp_path / 'store.sqlite'}"
    store, longest_ago = Store(store_url), time.time() - 86400
    for number, row in enumerate(data.logged(260, seed=5)):
        said = [*messages_of(row), {"role": "assistant", "content": "TL;DR: noted."}]
        store.add_conversation(said, user=f"user-{number % 40}", id=row.id, started_at=longest_ago + number)
    command = [sys.executable, "-m", "jobs.learn", *flags(tmp_path, store_url=store_url)]
    log = (tmp_path / "log").open("ab")

    def start():
        return subprocess.Popen(command, env=environment(WANDB_MODE="disabled"), stdout=log, stderr=log, cwd=tmp_path)

    kills, code = 0, None
    moments = [2.0, 5.0 + 4 * random.random(), 8.0 + 3 * random.random()]
    for moment in [*moments, *(random.uniform(1, 5) for _ in range(KILLS - len(moments)))]:
        process = start()
        try:
            code = process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    print(f"{kills} kills")
    assert kills >= 2
    if code is None:  # otherwise it ended between two of many kills, and another start would be another night
        process = start()
        try:
            code = process.wait(500)
        finally:
            process.kill()
    shown = (tmp_path / "log").read_text()
    assert code == 0, shown[-2000:]
    (night,) = (tmp_path / "runs" / "learn").iterdir()  # each start went on with the same night
    rows = [json.loads(line) for line in (night / "learn.jsonl").read_text().splitlines()]
    stages = [row["stage"] for row in rows]
    assert re.search(r"promoted: v0001 is live: .*[0-9]", shown)  # and what was gained
    assert stages == ["canary", "collect", "prepare", "split", "audit", "train", "evaluate", "register", "promote"]
    killed = versions.versions(tmp_path / "registry")
    assert [one.state for one in killed] == ["live"] and read_live(tmp_path / "registry").version == "v0001"
    learned = killed[0].data["conversations"]
    assert not killed[0].kept and len(learned) == killed[0].data["interactions"] > 150
    assert {one.id for one in store.conversations() if store.used_by(one.id) == ["v0001"]} == set(learned)
    assert not (night / "data" / "conversations.jsonl").exists()  # what was collected of everybody
    # The training was interrupted, and its weights are those of one that was not.
    whole = tmp_path / "whole"
    run = json.loads((night / "train" / "run.json").read_text())
    given = [part for part in run["command"][1:]]
    given[given.index("--output-dir") + 1] = str(whole)
    subprocess.run(
        [sys.executable, "-m", "jobs.train_offline", *given], env=environment(WANDB_MODE="disabled"), check=True,
        capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    step = killed[0].checkpoint
    weights = [folder / f"checkpoint-{step}" / "adapter_model.safetensors" for folder in (night / "train", whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    until(lambda: not _processes_of(night), 5)
    assert not _processes_of(night)  # nothing that was killed left a process behind


def _processes_of(folder: Path) -> list[int]:
    import psutil

    return [one.pid for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or ())]


@pytest.mark.slow
def test_a_training_that_is_out_of_time_saves_a_checkpoint_and_can_go_on(tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(interaction_lines(data.logged(160, seed=5))))
    out = tmp_path / "train"
    values = {"tiny": True, "train_jsonl": tmp_path / "train.jsonl", "output_dir": out, "adapter": "lora"}
    values |= {"guard": "off"}
    values |= {"eval_n": 0, "holdout": 0, "epochs": 8, "lr": 1e-3}
    with stage_lock(tmp_path) as lock:
        stages = Stages(tmp_path, lock, deadline=time.monotonic())
        code, late = stages.run("train-offline", values, may_end=lambda: (out / "metrics.jsonl").exists())
        assert (code, late) == (143, True)
        last = RunDirectory(out).last_checkpoint()
        assert last is not None and 1 <= int(last.name.rpartition("-")[2]) < 20
        assert not (RunDirectory(out).read_json("summary.json") or {}).get("finished")
        with pytest.raises(StageFailed, match=r"LR=0\.001") as failed:
            stages.run("train-offline", values | {"lr": 2e-3})  # refused by the run's own directory
        assert failed.value.exit_code == 1 and "train-offline.log" in str(failed.value)
        assert "\n" not in str(failed.value)


@pytest.mark.slow
def test_a_night_can_go_on_from_what_is_live(tmp_path):
    """CONTINUE=1: the training starts from the live version's weights, and its version is a whole model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from sdpo.registry import moves
    from sdpo.tiny import MODEL_DIR
    from tests.registries import add, settings, write_adapter

    registry, store_url = tmp_path / "registry", f"sqlite:///{tmp_path / 'store.sqlite'}"
    add(registry, write_adapter(tmp_path / "adapter", 1, size=0.02))
    moves.promote(settings(registry), "v0001")
    store = Store(store_url)
    for number, row in enumerate(data.logged(150, seed=5)):
        said = [*messages_of(row), {"role": "assistant", "content": "TL;DR: noted."}]
        store.add_conversation(said, user=f"user-{number % 40}", id=row.id, started_at=1000.0 + number)
    used = [one.id for one in store.conversations()][:30]
    store.mark_used(used, "v0001", until=1500.0)
    short = {
        "train_settings": "LR=3e-3 EPOCHS=1 EVAL_N=0 HOLDOUT=0 SAVE_STEPS=50 GUARD=off",
        "audit_settings": "AUDIT_N=20",
    }
    given = ["--continue", *flags(tmp_path, store_url=store_url, conversations="unused", **short)]
    assert main(JOB, given) in (0, 7)
    (night,) = (tmp_path / "runs" / "learn").iterdir()
    version = versions.read(registry, "v0002")
    assert (version.kind, version.parent) == ("model", "v0001")
    assert not set(used) & set(version.data["conversations"]) and len(version.data["conversations"]) > 64
    # It began with the live version as one model, and ended as another one.
    live = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(MODEL_DIR), registry / "versions/v0001/adapter"
    )
    merged = live.merge_and_unload().state_dict()
    start = AutoModelForCausalLM.from_pretrained(night / "start").state_dict()
    ended = AutoModelForCausalLM.from_pretrained(version.folder(registry)).state_dict()
    assert all(torch.allclose(merged[name], start[name], atol=1e-6) for name in merged)
    assert any(not torch.allclose(start[name], ended[name], atol=1e-4) for name in start)
    assert json.loads((night / "train" / "run.json").read_text())["settings"]["model"] == str(night / "start")
    if version.kept:
        return
    assert read_live(registry).version == "v0002"
    assert moves.rollback(settings(registry)) == "v0001"
