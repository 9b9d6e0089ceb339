"""Merging, export and upload of a run that has finished: carried out by the same job, without training again."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load

from sdpo.runtime.launch import main
from tests.commands import JOBS, clean_environment
from tests.train.test_publishing import CONVERTER, TOKEN, hub_variables
from tests.training import session_of, write_interactions, write_model
from tests.upload_hub import UploadHub

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    data, model = write_interactions(folder / "rows.jsonl"), write_model(folder / "model")
    for adapter in ("lora", "none"):
        given = {"train_jsonl": data, "model": model, "adapter": adapter, "report_to": "none", "guard": "off"}
        session = session_of("train_offline", folder / adapter, **given)
        assert session.run()
        session.run_dir.unlock()
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained / "lora", tmp_path / "my run")


def finish(run, *flags, job="train_offline"):
    return main(JOBS[f"jobs.{job}"], ["--output-dir", str(run), *flags])


def rejected(capsys, run, *flags, code=1, job="train_offline"):
    before = contents(run)
    assert finish(run, *flags, job=job) == code and contents(run) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_finished_run_is_merged_exported_and_uploaded_without_training(run, tmp_path):
    llama = tmp_path / "llama.cpp"
    llama.mkdir()
    (llama / "convert_hf_to_gguf.py").write_text(CONVERTER)
    before = contents(run)
    # Only the run is named: no adapter, data, model, number of GPUs or TINY.
    words = ["MERGE_ADAPTER=1", "EXPORT=gguf", f"LLAMA_CPP={llama}", "PUSH_TO_HUB=me/brief", "MODEL_LICENSE=mit"]
    with UploadHub(TOKEN) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "jobs", "train-offline", f"OUTPUT_DIR={run}", *words],
            env=clean_environment(**hub_variables(hub)), capture_output=True, text=True, timeout=300, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])).name
    sentence = (
        f"{last} of the finished run is merged into its base model, written as GGUF and uploaded; nothing was trained."
    )
    assert sentence in done.stdout.splitlines()
    after = contents(run)
    kept = {path for path in before if path.name not in ("README.md", ".lock")}
    assert all(after[path] == before[path] for path in kept) and (run / "model.gguf").exists()
    assert set(load(hub.files["me/brief"]["model.safetensors"])) and (run / "merged" / "model.safetensors").exists()
    head = yaml.safe_load(hub.files["me/brief"]["README.md"].decode().split("---")[1])
    assert (head["license"], head["library_name"]) == ("mit", "transformers")
    assert TOKEN not in done.stdout + done.stderr


def test_it_can_be_repeated_and_its_upload_is_that_of_a_training(run, tmp_path):
    with UploadHub(TOKEN, broken="/commit/") as hub:
        failed = subprocess.run(
            [sys.executable, "-m", "jobs", "train-offline", f"OUTPUT_DIR={run}", "PUSH_TO_HUB=me/brief"],
            env=clean_environment(**hub_variables(hub)), capture_output=True, text=True, timeout=300, cwd=tmp_path,
        )  # fmt: skip
    assert failed.returncode == 3
    command = f"Upload it later with: make train-offline PUSH_TO_HUB=me/brief OUTPUT_DIR='{run}'"
    assert failed.stderr.splitlines()[-1].endswith(command)
    assert finish(run, "--merge-adapter", "1") == finish(run, "--merge-adapter", "1") == 0
    assert not list(run.glob(".merged"))


def test_a_gguf_that_cannot_be_written_is_an_error_at_the_end(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert finish(run, "--export", "gguf") == 1
    said = capsys.readouterr()
    assert "it is" not in said.out and "not written as GGUF, which needs llama.cpp; nothing was trained." in said.out
    assert said.err.splitlines()[-1].startswith("error: EXPORT=gguf: no GGUF was written. Run the commands above")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(run, capsys):
    before = contents(run)
    assert finish(run, "--merge-adapter", "1", "--dry-run") == 0 and contents(run) == before
    said = capsys.readouterr().out
    last = run / "checkpoint-2"
    assert f"note: the run in {run} is finished: MERGE_ADAPTER would be carried out on {last.name}" in said
    assert "the run" in next(line for line in said.splitlines() if line.startswith("ADAPTER "))


def test_settings_that_the_run_does_not_have_are_refused(run, capsys):
    line = rejected(capsys, run, "--merge-adapter", "1", "--lr", "0.5")
    assert (
        "It was trained with LR=0.001; LR=0.5 was not applied. Leave that out to carry out MERGE_ADAPTER on this run."
        in line
    )
    assert finish(run, "--merge-adapter", "1", "--lr", "0.001", "--dry-run") == 0


@pytest.mark.parametrize("flags", [("--merge-adapter", "1"), ("--tiny",), ("--tiny", "--dry-run")])
def test_a_run_of_another_job_is_not_gone_on_with(run, capsys, flags):
    line = rejected(capsys, run, *flags, job="train_online_tldr")
    assert f"the run in {run} is one of train-offline, not of train-online-tldr. Give it to make train-offline" in line


def test_what_cannot_be_carried_out_is_one_line(trained, run, tmp_path, capsys):
    whole = shutil.copytree(trained / "none", tmp_path / "whole")
    line = rejected(capsys, whole, "--merge-adapter", "1", code=2)
    assert line == f"error: MERGE_ADAPTER: the run in {whole} trained all weights, without an adapter. Leave it out."
    assert "HUB_PUBLIC is for PUSH_TO_HUB" in rejected(capsys, run, "--merge-adapter", "1", "--hub-public", "1", code=2)
    assert "already contains a run" in rejected(
        capsys, run, "--tiny", "--adapter", "lora", "--merge-adapter", "1", "--resume", "never"
    )
    weights = run / "checkpoint-2" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "checkpoint-2 is damaged, so it cannot be used for MERGE_ADAPTER" in rejected(
        capsys, run, "--merge-adapter", "1"
    )
    shutil.rmtree(run / "checkpoint-2")
    assert "has no checkpoint any more" in rejected(capsys, run, "--merge-adapter", "1")


def test_after_a_stop_by_the_guard_the_best_checkpoint_is_used_and_none_if_none_is_good(run, capsys):
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-1")
    path = run / "summary.json"
    summary = json.loads(path.read_text()) | {"stopped_by_guard": {"step": 2, "reasons": ["drift"]}}
    path.write_text(json.dumps(summary))
    assert "the guard stopped the run" in rejected(capsys, run, "--merge-adapter", "1")
    path.write_text(json.dumps(summary | {"best_checkpoint": "checkpoint-1"}))
    assert finish(run, "--merge-adapter", "1") == 0
    assert (
        "checkpoint-1 of the finished run is merged into its base model; nothing was trained."
        in capsys.readouterr().out
    )


def test_a_finished_run_that_is_asked_for_nothing_more_is_still_an_error(run, capsys):
    assert "is finished" in rejected(capsys, run, "--tiny")
