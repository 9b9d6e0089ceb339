"""Prepared data as `datasets` reads it, and on the hub: private, redacted, counted before anything is sent."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

from jobs import prep_english, prep_logs
from jobs import push_data as push_data_job
from sdpo.data import push
from sdpo.data.card import dataset_card
from sdpo.runtime import launch
from sdpo.text.records import Interaction, interaction_lines, read_interactions
from tests.commands import clean_environment
from tests.upload_hub import UploadHub

pytestmark = pytest.mark.usefixtures("empty_folder")
TOKEN = "hf_s3cr3tThatMustNotAppear"


def prepared(module, *arguments: str) -> Path:
    assert launch.main(module.JOB, ["--tiny", "--out-dir", "out", *arguments]) == 0
    return Path("out").resolve()


def push_data(hub: UploadHub, *arguments: str) -> subprocess.CompletedProcess:
    cache = {"HF_HOME": str(Path("cache").resolve()), "HF_HUB_DISABLE_XET": "1"}
    environment = clean_environment(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_TOKEN=TOKEN, **cache)
    command = [sys.executable, "-m", "jobs.push_data", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("module", "splits"), [(prep_logs, ["train"]), (prep_english, ["train", "validation"])])
def test_load_dataset_reads_the_folder_and_its_files(module, splits):
    folder = prepared(module)
    loaded = load_dataset(str(folder), cache_dir="cache")
    assert list(loaded) == splits
    for split in splits:
        (file,) = folder.glob("*.jsonl" if len(splits) == 1 else f"{split}.jsonl")
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert list(loaded[split]["id"]) == [row["id"] for row in rows]
        named = {**rows[0], **({"rating": None, "finished": None} if "completion" in rows[0] else {})}
        if "timestamp" in named:  # the reader writes times in its own form
            named["timestamp"] = named["timestamp"].replace("T", " ").removesuffix("+00:00")
        assert loaded[split][0] == named
        alone = load_dataset("json", data_files=str(file), split="train", cache_dir="cache")
        assert len(alone) == len(rows) and set(alone.column_names) <= set(loaded[split].column_names)


def test_values_that_only_later_rows_have_are_read_too(tmp_path):
    message = [{"role": "user", "content": "why?"}]
    first = Interaction("0", "c", 1, None, None, message, "so" * 500, "no")
    rows = [dataclasses.replace(first, id=str(number)) for number in range(9000)]  # more than is read at once
    rows.append(
        Interaction("9000", "c", 1, "a-model", "2026-11-14T22:13:20Z", message, "so", "no", rating=-1, finished=False)
    )
    (tmp_path / "a_interactions.jsonl").write_text("".join(interaction_lines(rows)))
    report = {"job": "prep-logs", "source": str(tmp_path), "counts": {"interactions": {}}}
    (tmp_path / "README.md").write_text(dataset_card(report, ["a_interactions.jsonl", "report.json"]))
    loaded = load_dataset(str(tmp_path), split="train", cache_dir="cache")
    assert (loaded[9000]["model"], loaded[9000]["rating"], loaded[0]["rating"]) == ("a-model", -1, None)
    assert (loaded[9000]["finished"], loaded[0]["finished"]) == (False, None)
    loaded.to_json(tmp_path / "back.jsonl")
    back = read_interactions(tmp_path / "back.jsonl", "")
    assert [(one.id, one.finished) for one in back] == [(one.id, one.finished) for one in rows]
    assert str(tmp_path) not in (tmp_path / "README.md").read_text()


def test_data_are_uploaded_as_a_private_dataset_and_a_dry_run_says_how_many_rows():
    folder = prepared(prep_english)
    (folder / "validation.jsonl").rename(folder / "validation[1].jsonl")
    rows = {path.name: len(path.read_text("utf-8").splitlines()) for path in folder.glob("*.jsonl")}
    with UploadHub(TOKEN) as hub:
        planned = push_data(hub, "--data", str(folder), "--repo", "me/prompts", "--dry-run")
        assert planned.returncode == 0, planned.stderr
        assert f"{sum(rows.values())} rows ({rows['train.jsonl']} of train.jsonl" in planned.stdout
        assert "to me/prompts, private if it is new" in planned.stdout and not hub.repositories and not hub.files
        done = push_data(hub, "--data", str(folder), "--repo", "me/prompts")
    assert done.returncode == 0, done.stderr
    assert f"uploaded to {hub.url}/datasets/me/prompts" in done.stdout
    assert (hub.repositories["me/prompts"]["type"], hub.repositories["me/prompts"]["visibility"]) == (
        "dataset",
        "private",
    )
    assert set(hub.files["me/prompts"]) == {"README.md", "train.jsonl", "validation[1].jsonl"}
    assert hub.files["me/prompts"]["train.jsonl"] == (folder / "train.jsonl").read_bytes()
    assert TOKEN not in planned.stdout + planned.stderr + done.stdout + done.stderr


def test_without_a_token_a_dry_run_still_says_what_would_be_uploaded(monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", "nobody")
    folder = prepared(prep_english)
    capsys.readouterr()
    assert launch.main(push_data_job.JOB, ["--data", str(folder), "--repo", "me/prompts", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "of train.jsonl" in said.out and "note: REPO=me/prompts needs an account of the hub." in said.out


def test_a_hub_that_fails_is_answered_with_the_same_command(monkeypatch):
    folder = prepared(prep_english)
    given = ["--data", str(folder), "--repo", "me/prompts"]
    again = f"make push-data DATA={folder} REPO=me/prompts"
    with UploadHub(TOKEN, broken="/commit/") as hub:
        (line,) = push_data(hub, *given).stderr.splitlines()
    assert "me/prompts cannot be uploaded: " in line and line.endswith(f"Upload it later with: {again}")
    (line,) = push_data(hub, *given).stderr.splitlines()  # it is down now
    assert "REPO=me/prompts: the hub does not respond" in line and "Nothing was uploaded." in line
    assert line.endswith(again) and TOKEN not in line


def test_conversations_that_are_not_redacted_are_refused_unless_it_is_said_explicitly():
    folder = prepared(prep_logs, "--redact", "0")
    with UploadHub(TOKEN) as hub:
        refused = push_data(hub, "--data", str(folder), "--repo", "me/chats")
        assert refused.returncode == 1 and not hub.asked
        (line,) = refused.stderr.splitlines()
        assert "not redacted (REDACT=0)" in line and "ALLOW_UNREDACTED=1" in line
        done = push_data(hub, "--data", str(folder), "--repo", "me/chats", "--allow-unredacted", "1", "--public", "1")
    assert done.returncode == 0, done.stderr
    assert hub.repositories["me/chats"]["visibility"] == "public"


def test_what_says_nothing_of_redaction_counts_as_not_redacted(tmp_path):
    row = {"id": "a", "prompt": [{"role": "user", "content": "why?"}], "completion": "so", "user_response": "no"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert "no report.json" in push.unredacted(tmp_path)
    (tmp_path / "report.json").write_text("[]")
    assert "does not say" in push.unredacted(tmp_path)
    for report, words in (
        ({"job": "mine"}, "does not say"),
        ({"job": "prep-logs", "redacted": "nothing (REDACT=0)"}, "not redacted (REDACT=0)"),
        ({"job": "prep-logs", "redacted": {"email": 2}}, None),
        ({"job": "prep-wildchat"}, None),
    ):
        (tmp_path / "report.json").write_text(json.dumps(report))
        found = push.unredacted(tmp_path)
        assert found is None if words is None else words in found
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "prompt": "why?"}\n')
    assert push.unredacted(tmp_path) is None


def test_a_file_beside_what_the_job_wrote_is_refused_unless_it_is_said_explicitly():
    folder = prepared(prep_logs)
    raw = [{"messages": [{"role": "user", "content": "I am ann@x.example."}]}]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in raw))
    given = ["--data", str(folder), "--repo", "me/chats", "--dry-run"]
    for earlier in (False, True):
        if earlier:  # a report that does not name the files
            report = json.loads((folder / "report.json").read_text())
            assert report.pop("written") == ["logs_interactions.jsonl"]
            (folder / "report.json").write_text(json.dumps(report))
        with UploadHub(TOKEN) as hub:
            refused = push_data(hub, *given)
            assert refused.returncode == 1 and not hub.asked
            (line,) = refused.stderr.splitlines()
            assert "also holds chats.jsonl" in line and "ALLOW_UNREDACTED=1" in line
            assert push_data(hub, *given, "--allow-unredacted", "1").returncode == 0
