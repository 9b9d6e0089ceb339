"""The run directory: resumed or rejected, never overwritten, written atomically."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sdpo.errors import AtWork, RunError
from sdpo.runtime.commands import new_run_command, resume_command
from sdpo.runtime.files import disk_full, replace_file
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import OfflineSettings
from sdpo.settings.resolve import resolve
from tests.commands import JOBS

SETTINGS = {"lr": 1e-4, "seed": 42, "concurrency": 32}


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    assert directory.open(SETTINGS) == "new"
    return directory


def reopened(run: RunDirectory) -> RunDirectory:
    run._lock.close()
    return RunDirectory(run.path)


def test_run_json_records_settings_and_provenance(run):
    written = run.read_json("run.json")
    assert written["settings"] == SETTINGS
    assert written["versions"]["torch"].startswith("2.")
    assert {"started", "command", "commit", "python"} <= written.keys()


def test_the_same_settings_resume_the_run(run):
    assert reopened(run).open(SETTINGS | {"concurrency": 4}) == "continued"


@pytest.mark.parametrize(("name", "value"), [("lr", 1e-5), ("seed", 1)])
def test_a_changed_setting_is_rejected_by_name(run, name, value):
    with pytest.raises(RunError, match=name.upper()):
        reopened(run).open(SETTINGS | {name: value})


def test_foreign_finished_and_unwanted_directories_are_rejected(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(RunError):
        RunDirectory(tmp_path / "other").open(SETTINGS)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError):
        reopened(run).check(SETTINGS, resume=False)
    run.write_json("summary.json", {"finished": True})
    with pytest.raises(RunError):
        RunDirectory(run.path).check(SETTINGS)


def test_a_finished_run_says_what_it_was_trained_with_and_how_a_new_one_is_started(run):
    run.write_json("summary.json", {"finished": True})
    with pytest.raises(RunError, match=r"is finished\. For a new run: make x RUN_ID=b$"):
        RunDirectory(run.path).check(SETTINGS, new_run="make x RUN_ID=b")
    changed = SETTINGS | {"lr": 1e-5, "seed": None, "concurrency": 99}
    with pytest.raises(RunError) as caught:
        RunDirectory(run.path).check(changed, new_run="make x RUN_ID=b")
    said = "is finished. It was trained with LR=0.0001, SEED=42; LR=1e-5, SEED not set were not applied."
    assert f"{said} For a new run: make x RUN_ID=b" in str(caught.value)


def test_a_finished_run_with_a_checkpoint_says_how_it_is_evaluated(run):
    run.write_json("summary.json", {"finished": True})
    checkpoint = run.path / "checkpoint-5"
    checkpoint.mkdir()
    run.last_checkpoint = lambda: checkpoint
    with pytest.raises(
        RunError, match=rf"is finished\. Evaluate it: make eval RUN_DIR={run.path}\. For a new run: make x$"
    ):
        run.check(SETTINGS, new_run="make x")


def test_a_path_with_blanks_is_quoted_in_the_command_that_evaluates_it(tmp_path):
    run = RunDirectory(tmp_path / "my runs" / "first")
    run.open(SETTINGS)
    run.write_json("summary.json", {"finished": True})
    run.last_checkpoint = lambda: run.path / "checkpoint-5"
    with pytest.raises(RunError, match=rf"Evaluate it: make eval RUN_DIR='{run.path}'\. For"):
        run.check(SETTINGS)


def test_the_command_of_a_new_run_has_the_given_settings_and_a_free_name(tmp_path):
    settings = resolve(OfflineSettings, ["--lr", "1e-5", "--eval-n", "0", "--gpus", "2", "--run-id", "a"], job="j")
    settings = dataclasses.replace(settings, output_dir=tmp_path / "a")
    assert new_run_command(settings, "train-offline") == "make train-offline LR=1e-5 EVAL_N=0 GPUS=2 RUN_ID=a-2"
    (tmp_path / "a-2").mkdir()
    assert new_run_command(settings, "train-offline").endswith(" RUN_ID=a-3")
    given = settings.derived("flag", output_dir=tmp_path / "a")
    assert new_run_command(given, "x").endswith(f" RUN_ID=a-3 OUTPUT_DIR={tmp_path / 'a'}-3")
    assert resume_command(given, "x").endswith(f"GPUS=2 RUN_ID=a OUTPUT_DIR={tmp_path / 'a'}")


@pytest.mark.parametrize(
    ("adapter", "advice"), [("none", "give MODEL=.*/checkpoint-5 and another"), ("lora", "make x$")]
)
def test_only_whole_weights_are_named_to_train_on_from(adapter, advice, tmp_path):
    run = RunDirectory(tmp_path)
    values = {"adapter": adapter, "save_only_model": True}
    run.open(values)
    run.append("metrics.jsonl", [{"step": 5}])
    run.last_checkpoint = lambda: run.path / "checkpoint-5"
    with pytest.raises(RunError, match=f"cannot be resumed. .*{advice}"):
        run.check(values, new_run="make x")


def test_two_processes_cannot_use_one_directory(run):
    code = (
        "import sys; from pathlib import Path; from sdpo.errors import RunError\n"
        "from sdpo.runtime.run_directory import RunDirectory\n"
        f"try: RunDirectory(Path({str(run.path)!r})).open({SETTINGS!r})\n"
        "except RunError: sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


def test_a_run_in_use_is_noticed_before_it_is_opened(run):
    with pytest.raises(AtWork, match="another process is using"):
        RunDirectory(run.path).check_free()
    run.unlock()
    for _ in range(2):  # looking does not lock
        RunDirectory(run.path).check_free()
    RunDirectory(run.path / "none").check_free()
    assert not (run.path / "none").exists()


def test_a_second_process_is_refused_before_a_model_is_loaded_and_writes_no_report(tmp_path, capsys):
    out = tmp_path / "run"
    run = RunDirectory(out)
    run.open(SETTINGS)
    before = sorted(out.iterdir())
    for dry_run in ("0", "1"):
        assert main(JOBS["jobs.train_offline"], ["TINY=1", f"OUTPUT_DIR={out}", f"DRY_RUN={dry_run}"]) == 1
        said = capsys.readouterr()
        assert said.err == f"error: another process is using {out}. Wait for it, or choose another RUN_ID.\n"
        assert said.out == "" and sorted(out.iterdir()) == before


def test_checking_writes_nothing(tmp_path):
    assert RunDirectory(tmp_path / "none" / "such").check(SETTINGS) == "new"
    assert list(tmp_path.iterdir()) == []


def test_only_complete_checkpoints_are_resumed_from(run):
    for step in (3, 12, 6):
        (run.path / f"checkpoint-{step}").mkdir()
        (run.path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert run.last_checkpoint() is None
    run.mark_complete(3)
    run.mark_complete(6)
    assert run.last_checkpoint().name == "checkpoint-6"
    assert run.remove_incomplete_checkpoints() == ["checkpoint-12"]
    assert sorted(path.name for path in run.path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]


def test_rows_after_the_checkpoint_and_a_truncated_line_are_dropped(run):
    run.append("metrics.jsonl", [{"step": step, "text": "é\u2028"} for step in range(1, 6)])
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "te')
    assert [row["step"] for row in run.read_rows("metrics.jsonl")] == [1, 2, 3, 4, 5]
    run.drop_rows_after("metrics.jsonl", 3)
    assert [row["step"] for row in run.read_rows("metrics.jsonl")] == [1, 2, 3]


def test_an_invalid_line_in_the_middle_is_reported(run):
    (run.path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(RunError, match="line 2"):
        run.read_rows("metrics.jsonl")


def test_a_failed_write_leaves_the_old_file(run):
    run.write_json("summary.json", {"old": 1})

    class Unwritable:
        def __str__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        run.write_json("summary.json", {"new": Unwritable()})
    assert json.loads((run.path / "summary.json").read_text()) == {"old": 1}
    assert not [path for path in run.path.iterdir() if path.name.startswith(".summary")]


def test_a_run_resumes_with_other_processes_if_the_step_size_stays(tmp_path):
    before = {"lr": 1.0, "bs": 4, "ga": 2, "world_size": 1}
    RunDirectory(tmp_path).open(before)
    for bs, ga, world_size in ((4, 1, 2), (8, 1, 1), (1, 2, 4)):
        again = RunDirectory(tmp_path)
        assert again.check({"lr": 1.0, "bs": bs, "ga": ga, "world_size": world_size}) == "continued"
    with pytest.raises(RunError, match="8 rows"):
        RunDirectory(tmp_path).check({"lr": 1.0, "bs": 4, "ga": 2, "world_size": 2})


def test_a_full_disk_is_distinguished_from_other_checkpoint_errors(tmp_path, monkeypatch):
    space = {"free": 0}
    monkeypatch.setattr("sdpo.runtime.files.shutil.disk_usage", lambda folder: SimpleNamespace(**space))
    writer = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert disk_full(writer, tmp_path)
    assert not disk_full(RuntimeError("the loss is NaN"), tmp_path)
    space["free"] = 2**30
    assert not disk_full(writer, tmp_path)
    assert disk_full(Exception("I/O error: No space left on device (os error 28)"), tmp_path)


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        replace_file(tmp_path / "none" / "page.html", b"")
    assert caught.value.filename == str(tmp_path / "none" / "page.html")
