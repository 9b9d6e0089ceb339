"""The preparation jobs end to end: against a reference implementation, run twice, and killed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest

from jobs import prep_helpsteer, prep_logs, prep_tldr, prep_wildchat, prep_wildfeedback
from sdpo.data import output
from sdpo.runtime import launch
from sdpo.text.records import read_interactions, read_prompts
from sdpo.tiny import MODEL_DIR, WORLD_DIR, raw
from tests import raw_data
from tests.commands import JOBS, clean_environment
from tests.preparation import OUTPUTS, name_of, report_of, rows_of, run, write

pytestmark = pytest.mark.usefixtures("empty_folder")
MODULES = list(OUTPUTS)


# Against the reference implementation

KINDS = ["parquet", "jsonl", "jsonl.gz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("module", "made"), [(prep_tldr, "tldr"), (prep_helpsteer, "helpsteer")])
def test_prompts_match_the_reference_implementation(module, made, kind):
    rng = raw_data.random(1)
    posts = [f"Post number {number} 😀 שלום <|im_end|>" for number in range(60)]
    more = [posts] if made == "tldr" else []
    rows = {"train": getattr(raw_data, made)(rng, 400, *more), "validation": getattr(raw_data, made)(rng, 150, *more)}
    # Some of validation comes from other posts, so that it is not empty without the prompts of train.
    if made == "tldr":
        rows["validation"] += raw_data.tldr(rng, 60, [f"Other post {number}" for number in range(30)])
    for split, split_rows in rows.items():
        write(Path(f"source/{split}-0.{kind}"), split_rows)
    folder = run(module, "--source", "source")
    slow = getattr(raw_data, f"slow_{made}")
    train, seen = raw_data.slow_prompts(slow(rows["train"]))
    validation, _ = raw_data.slow_prompts(slow(rows["validation"]), seen)
    assert [row["prompt"] for row in rows_of(folder / "train.jsonl")] == train
    assert [row["prompt"] for row in rows_of(folder / "validation.jsonl")] == validation
    counts = report_of(folder)["counts"]
    assert [counts[split]["seen"] for split in rows] == [len(split_rows) for split_rows in rows.values()]
    assert counts["validation"]["dropped"]["also in train"] > 0 and counts["train"]["dropped"]["duplicate"] > 0
    for split in rows:
        assert len(read_prompts(folder / f"{split}.jsonl", "")) == counts[split]["kept"]


def slow_rows(rows, key, longest_user=None):
    """Return the interactions of each row by the reference implementation; [] for a row that is dropped."""
    results = []
    for number, row in enumerate(rows):
        messages = row.get(key) or row.get("conversation") or []
        messages = [
            (
                {"human": "user", "gpt": "assistant"}.get(m.get("from") or m.get("role"), m.get("role")),
                m.get("content") or m.get("value"),
            )
            for m in messages
        ]
        if any(role is None for role, _ in messages):
            results.append([])
            continue
        results.append(
            raw_data.slow_conversation(row.get("conversation_id") or f"row-{number}", messages, longest_user)
        )
    return results


def without_metadata(rows):
    return [{name: value for name, value in row.items() if name not in ("model", "timestamp")} for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_wildfeedback_matches_the_reference_implementation(kind):
    rows = raw_data.wildfeedback(raw_data.random(2), 700)
    write(Path(f"source/train-0.{kind}"), rows[:500])
    write(Path(f"source/train-1.{kind}"), rows[500:])
    folder = run(prep_wildfeedback, "--source", "source")
    expected = slow_rows(rows, "conversations")
    path = folder / "wildfeedback_interactions.jsonl"
    assert without_metadata(rows_of(path)) == [one for interactions in expected for one in interactions]
    report = report_of(folder)
    assert report["counts"]["conversations"]["seen"] == len(rows)
    assert report["counts"]["conversations"]["kept"] == sum(map(bool, expected))
    assert report["counts"]["interactions"]["kept"] == len(list(read_interactions(path, "")))


def shuffled(rows, seed=42):
    import numpy

    return [(int(number), rows[number]) for number in numpy.random.default_rng(seed).permutation(len(rows))]


def slow_wildchat(rows, seed=42):
    order = shuffled(rows, seed)
    results = slow_rows([row for _, row in order], "conversation", longest_user=4096)
    for (number, row), (index, made) in zip(order, enumerate(results), strict=True):
        if (row["language"] or "").lower() != "english":
            results[index] = []
        for one in made:
            if not row["conversation_id"]:  # the row number in the source, not in the shuffled order
                one["conversation_id"], one["id"] = f"row-{number}", f"row-{number}_{one['turn_id']}"
    return [row for _, row in order], results


@pytest.mark.parametrize("kind", KINDS)
def test_wildchat_matches_the_reference_implementation(kind):
    rows = raw_data.wildchat(raw_data.random(3), 1500)
    write(Path(f"source/train-0.{kind}"), rows[:700])
    write(Path(f"source/train-1.{kind}"), rows[700:])
    folder = run(prep_wildchat, "--source", "source")
    order, expected = slow_wildchat(rows)
    written = rows_of(folder / "wildchat_interactions_v1.jsonl")
    assert without_metadata(written) == [one for interactions in expected for one in interactions]
    assert {row["model"] for row in written} == {"gpt-4", None}
    assert written[0]["timestamp"].startswith("2020-09-")
    report = report_of(folder)
    assert report["counts"]["conversations"]["kept"] == sum(map(bool, expected))
    assert report["languages"] == dict(Counter(row["language"] for row in order if row["language"]).most_common())
    assert report["not_read"] == 0


def test_wildchat_stops_at_its_limits():
    rows = raw_data.wildchat(raw_data.random(4), 900)
    write(Path("source/train.parquet"), rows)
    _, expected = slow_wildchat(rows, seed=7)
    kept = [interactions for interactions in expected if interactions]
    limits = ["--max-conversations", "120", "--max-interactions", "150", "--min-conversations", "40"]
    folder = run(prep_wildchat, "--source", "source", "--seed", "7", *limits)
    count = next(n for n in range(1, 200) if n >= 120 or (n >= 40 and sum(map(len, kept[:n])) >= 150))
    written = without_metadata(rows_of(folder / "wildchat_interactions_v1.jsonl"))
    assert written == [one for interactions in kept[:count] for one in interactions]
    counts = report_of(folder)["counts"]["conversations"]
    assert counts["kept"] == count
    assert report_of(folder)["not_read"] == len(rows) - counts["seen"] > 0


@pytest.mark.parametrize("name", ["toxic", "redacted"])
def test_flagged_conversations_are_dropped_if_the_settings_ask_for_it(name):
    rows = raw_data.wildchat(raw_data.random(5), 300)
    write(Path("source/train.parquet"), rows)
    folder = run(prep_wildchat, "--source", "source", f"--drop-{name}")
    order, expected = slow_wildchat(rows)
    kept = [one for row, interactions in zip(order, expected, strict=True) for one in interactions if not row[name]]
    assert without_metadata(rows_of(folder / "wildchat_interactions_v1.jsonl")) == kept
    assert report_of(folder)["counts"]["conversations"]["dropped"][name] == sum(row[name] for row in rows)


# All jobs


def test_the_default_data_of_each_trainer_is_what_its_preparation_job_writes():
    written = {
        module.JOB.name: {Path(module.JOB.defaults["out_dir"]) / name for name in names}
        for module, names in OUTPUTS.items()
    }
    written["prep-english"] = {Path(f"data/english_prompts/{split}.jsonl") for split in ("train", "validation")}
    trainers = [job for job in JOBS.values() if job.data_target]
    assert trainers
    for job in trainers:
        assert job.data_command == f"make {job.data_target}"
        named = {Path(job.defaults[field]) for field in ("train_jsonl", "val_jsonl", "data") if job.defaults.get(field)}
        assert named and named <= written[job.data_target]


def tiny(module, *arguments, **options):
    return run(module, "--tiny", *arguments, **options)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_the_tiny_data_give_files_that_the_trainers_read(module, capsys):
    folder = tiny(module, "--model", str(MODEL_DIR))
    names = [*OUTPUTS[module], "README.md", "lengths.png", "report.json"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    reader = read_interactions if "interactions" in names[0] else read_prompts
    for name in OUTPUTS[module]:
        assert list(reader(folder / name, f"make {module.JOB.name}"))
    assert (folder / "lengths.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    report = report_of(folder)
    assert report["lengths"]["unit"] == "tokens of model"
    for counts in report["counts"].values():
        assert f"{counts['seen']:,}" in printed
        assert all(f"{reason} " in printed for reason in counts["dropped"])


def _shipped(name):
    return WORLD_DIR / "data" / name


def test_the_tiny_data_have_the_columns_of_the_sources_and_are_reproducible():
    for module, name in ((prep_tldr, "info"), (prep_wildchat, "openai_moderation")):
        folder = WORLD_DIR / "data" / module.JOB.name.removeprefix("prep-")
        (first, *_) = sorted(folder.iterdir())
        assert name in pyarrow.parquet.read_schema(first).names
    assert raw.wildfeedback_rows(random.Random(6), 60) == json.loads(_shipped("wildfeedback/train.json").read_text())
    shipped = pyarrow.parquet.read_table(_shipped("tldr/train-00000-of-00001.parquet")).to_pylist()
    assert raw.tldr_rows(random.Random(1), 160, held=False) == shipped
    size = sum(path.stat().st_size for path in (WORLD_DIR / "data").glob("[!.]*/*"))
    assert size < 300_000


def test_a_missing_input_is_said_before_what_is_there_already(tmp_path, capsys):
    (tmp_path / "logs_interactions.jsonl").write_text("{}\n")
    assert launch.main(prep_logs.JOB, ["--out-dir", str(tmp_path)]) == 2
    assert "INPUT is not given" in capsys.readouterr().err


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_the_same_rows_give_the_same_bytes_and_are_replaced_only_with_force(module, capsys):
    folder = tiny(module)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tiny(module, expect=1)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "FORCE=1" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    tiny(module, "--force")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_seed_gives_another_order():
    first = rows_of(tiny(prep_wildchat) / "wildchat_interactions_v1.jsonl")
    second = rows_of(tiny(prep_wildchat, "--force", "--seed", "1") / "wildchat_interactions_v1.jsonl")
    assert first != second
    assert sorted(row["id"] for row in first) == sorted(row["id"] for row in second)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_full_disk_is_one_line_and_leaves_no_files(module, monkeypatch, capsys):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, "fsync", full)
    folder = tiny(module, expect=1)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "disk is full" in error and "OUT_DIR" in error
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (prep_tldr, ["--source", "nowhere"], ["SOURCE", "nowhere"]),
        (prep_tldr, ["--source", "empty"], ["SOURCE", "train"]),
        (prep_tldr, ["--tiny", "--model", "empty"], ["MODEL", "tokenizer.json"]),
        (prep_wildchat, ["--source", "words.jsonl"], ["nothing", "not English: 1"]),
        (prep_wildchat, ["--tiny", "--max-conversations", "-1"], ["MAX_CONVERSATIONS"]),
        (prep_logs, [], ["INPUT"]),
        (prep_logs, ["--tiny", "--model", "some/model"], ["MODEL=some/model is not in the hub's cache", "unset MODEL"]),
        (prep_logs, ["--input", "empty"], ["INPUT", "no files"]),
        (
            prep_logs,
            ["--input", "words.jsonl"],
            ["a form that is not known: 1, first in words.jsonl, row 1, with the fields word)", '"messages"'],
        ),
        (prep_logs, ["--input", "words.jsonl", "--dry-run"], ["row 1, with the fields word", '"messages"']),
        (prep_logs, ["--input", "lists.jsonl"], ["row 1, which has no fields"]),
        (prep_logs, ["--input", "wide.jsonl"], ["row 1, with the fields a0, a1, a2, a3, a4, a5, a6, a7, …)"]),
        (prep_logs, ["--tiny", "--out-dir", "words.jsonl"], ["words.jsonl", "OUT_DIR"]),
    ],
)
def test_user_errors_are_one_line(module, arguments, words, capsys):
    Path("empty").mkdir()
    Path("words.jsonl").write_text('{"word": 1}\n')
    Path("lists.jsonl").write_text("[[1], [2]]\n")
    Path("wide.jsonl").write_text(json.dumps({f"a{number}": 1 for number in range(20)}) + "\n")
    assert launch.main(module.JOB, ["--out-dir", "out", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and all(word in error for word in words), error


def test_train_is_not_written_beside_an_old_validation_file(capsys):
    folder = tiny(prep_tldr)
    (source,) = (WORLD_DIR / "data" / "tldr").glob("train*")
    run(prep_tldr, "--source", str(source), "--force", expect=1)
    assert "validation.jsonl" in capsys.readouterr().err
    shutil.rmtree(folder)
    run(prep_tldr, "--source", str(source))
    assert not (folder / "validation.jsonl").exists()


def test_a_job_killed_at_any_moment_leaves_no_incomplete_file(tmp_path):
    rows = raw_data.wildchat(raw_data.random(6), 3000)
    write(Path("source/train.parquet"), rows)
    command = [sys.executable, "-m", "jobs.prep_wildchat", "--source", "source", "--out-dir"]
    started = time.monotonic()
    subprocess.run([*command, "complete"], env=clean_environment(), check=True, capture_output=True)
    seconds = time.monotonic() - started
    complete = {path.name: path.read_bytes() for path in Path("complete").iterdir()}
    rng = random.Random(0)
    for number in range(6):
        process = subprocess.Popen([*command, f"killed-{number}"], env=clean_environment(), stdout=subprocess.DEVNULL)
        time.sleep(seconds * rng.uniform(0.3, 1.05))
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        process.wait()
        folder = Path(f"killed-{number}")
        left = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
        assert left.items() <= complete.items()
