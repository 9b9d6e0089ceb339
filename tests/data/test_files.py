"""Reading local files, the shuffled table, and output files that appear complete or not at all."""

import errno
import gzip
import json
import os

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdpo.data import files, json_stream
from sdpo.data.conversation import Dropped
from sdpo.data.output import Outputs, refuse_existing
from sdpo.data.report import Lengths, Measure, Tally, length_at, measure_of
from sdpo.data.table import Table
from sdpo.errors import RecordError, RunError, SettingError
from sdpo.tiny import MODEL_DIR

ROWS = [{"number": number, "list": [{"text": "é" * (number % 3)}] * (number % 4)} for number in range(2345)]
BAD = json_stream.NOT_JSON


def read(path):
    return list(json_stream.read_json(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", []),
        (" \n\n", []),
        ('{"a": 1}', [{"a": 1}]),
        ('\n{"a": 1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\nnot this\n{"a": 2}', [{"a": 1}, BAD, {"a": 2}]),
        ('not this\n{"a": 2}', [BAD, {"a": 2}]),
        ('{"a": broken\n{"a": 2}', [BAD, {"a": 2}]),
        ('{\n  "a": [\n1\n]\n}\n', [{"a": [1]}]),
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('[\n{"a": 1},\n{"a": 2}\n]\n', [{"a": 1}, {"a": 2}]),
        ('[{"a": 1}, {"a": ', [{"a": 1}, BAD]),
        ('[{"a": 1}', [{"a": 1}, BAD]),
        ('[{"a": 1}] and more', [{"a": 1}, BAD]),
        ("[12, 345]", [12, 345]),
        ("[]", []),
        ('[{"a": 1}]\n[{"a": 2}]\n', [[{"a": 1}], [{"a": 2}]]),
        ("3\n", [3]),
        ("[" * 100_000, [BAD]),
        ("9" * 5000 + "\n1", [BAD, 1]),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_json_is_read_in_every_layout_and_invalid_json_is_counted(tmp_path, content, expected, compressed):
    path = tmp_path / "any.name"
    path.write_bytes(gzip.compress(content.encode()) if compressed else content.encode())
    assert read(path) == expected


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_an_array_is_read_the_same_with_any_chunk_size(tmp_path, monkeypatch, chunk):
    values = [{"a": "x" * 30, "b": [1, 2.5, None]}, 123456, "text, with ] in it", [], "\u2028é"]
    path = tmp_path / "array.json"
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1))
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    assert read(path) == values


def test_a_line_longer_than_a_chunk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 8)
    path = tmp_path / "lines.jsonl"
    path.write_text('"' + "x" * 50 + '"\n"y"\n')
    assert read(path) == ["x" * 50, "y"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe{", "UTF-8"),
        (gzip.compress(b"{}" * 1000, mtime=0)[:-9], "truncated"),
        (b"\x1f\x8bnot gzip at all", "truncated"),
    ],
)
def test_an_unreadable_file_is_a_one_line_error_with_its_name(tmp_path, content, expected):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=expected) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def write(folder, name, rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=700)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        text = json.dumps(rows) if ".json" in name and ".jsonl" not in name else lines
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"])
def test_every_file_format_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path, name, ROWS)
    advanced = []
    assert list(files.rows([path, path], ["number", "list", "missing"], advanced.append)) == ROWS * 2
    assert sum(advanced) == 2 * len(ROWS)
    assert files.count_rows([path]) == (len(ROWS) if name.endswith("parquet") else None)


def test_rows_that_are_not_objects_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n3\nnull\nnonsense\n')
    results = list(files.rows([path], ["a"], lambda count: None))
    assert results == [{"a": 1}, *[Dropped("a row that is not an object")] * 2, BAD]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 and nothing else PAR1"])
def test_a_corrupt_parquet_file_is_a_one_line_error(tmp_path, content):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    for reading in (lambda: files.count_rows([path]), lambda: list(files.batches([path], ["a"]))):
        with pytest.raises(RecordError, match=r"a\.parquet.*parquet"):
            reading()


def test_a_file_with_other_columns_is_an_error_that_lists_them(tmp_path):
    path = write(tmp_path, "a.parquet", ROWS)
    with pytest.raises(RecordError, match=r"columns info.*it has number, list"):
        list(files.batches([path], ["info"]))


def test_files_are_assigned_to_splits_by_file_or_folder_name(tmp_path):
    names = ["train-1.parquet", "train-0.parquet", "validation.jsonl.gz", "comparisons/train/0.parquet", "notes.txt"]
    for name in names:
        write(tmp_path, name, ROWS[:1])
    found = files.find(tmp_path, ["train", "validation"])
    assert [str(path.relative_to(tmp_path)) for path in found["train"]] == [names[3], names[1], names[0]]
    assert [path.name for path in found["validation"]] == ["validation.jsonl.gz"]
    assert files.find(tmp_path / names[2], ["train", "validation"]) == {"train": [tmp_path / names[2]]}
    with pytest.raises(RecordError, match="test"):
        files.find(tmp_path, ["test"])


# The table


@pytest.mark.parametrize("kinds", [["parquet"], ["jsonl"], ["jsonl", "parquet", "jsonl"]])
def test_a_table_is_shuffled_in_the_order_of_datasets(tmp_path, kinds):
    share = len(ROWS) // len(kinds)
    parts = [ROWS[number * share : (number + 1) * share] for number in range(len(kinds))]
    paths = [write(tmp_path, f"{n}.{kind}", part) for n, (kind, part) in enumerate(zip(kinds, parts, strict=True))]
    rows = [row for part in parts for row in part]
    expected = datasets.Dataset.from_list(rows).shuffle(seed=42)["number"]
    before = set(tmp_path.iterdir())
    with Table(files.batches(paths, ["number", "list"]), tmp_path) as table:
        assert len(table) == len(rows)
        results = list(table.shuffled(42))
        assert set(tmp_path.iterdir()) == before  # the temporary file is anonymous
    assert [row["number"] for _, row in results] == list(expected)
    assert all(rows[number] == row for number, row in results)


def test_a_table_keeps_the_reason_of_a_dropped_row(tmp_path):
    with Table([[{"a": 1}, BAD, 3]], tmp_path) as table:
        assert dict(table.shuffled(0)) == {0: {"a": 1}, 1: BAD, 2: Dropped("a row that is not an object")}
    with Table([], tmp_path) as table:
        assert list(table.shuffled(0)) == []


# Output


@pytest.fixture(params=[True, False], ids=["anonymous", "named"])
def anonymous(request, monkeypatch):
    """Whether the system supports anonymous files (O_TMPFILE)."""
    if not request.param:
        monkeypatch.delattr(os, "O_TMPFILE")
    return request.param


def test_files_appear_together_and_only_when_published(tmp_path, anonymous):
    folder = tmp_path / "a" / "b"
    paths = [folder / "first", folder / "second"]
    folder.mkdir(parents=True)
    (folder / f".first.{os.getpid()}").write_text("half")  # of a container that was killed: there numbers recur
    with Outputs(paths, force=False) as outputs:
        for path in paths:
            outputs[path].write(path.name.encode())
        assert not any(path.exists() for path in paths)
        assert not (anonymous and list(folder.iterdir()))
        outputs.publish()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"first": "first", "second": "second"}
    assert oct(paths[0].stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def _umask():
    now = os.umask(0)
    os.umask(now)
    return now


def test_an_exception_leaves_no_files(tmp_path, anonymous):
    with pytest.raises(KeyError), Outputs([tmp_path / "first"], force=False) as outputs:
        outputs[tmp_path / "first"].write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_only_the_old_file(tmp_path, anonymous, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "first").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"), Outputs([tmp_path / "first"], force=True) as outputs:
        outputs[tmp_path / "first"].write(b"new")
        outputs.publish()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_existing_files_are_kept_unless_forced(tmp_path, anonymous):
    path = tmp_path / "first"
    path.write_text("old")
    with pytest.raises(RunError, match="FORCE=1"):
        refuse_existing([path], force=False)
    with pytest.raises(RunError, match="FORCE=1"), Outputs([path], force=False) as outputs:
        outputs.publish()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with Outputs([path], force=True) as outputs:
        outputs[path].write(b"new")
        outputs.publish()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


# Counting


@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1), st.floats(0.01, 1))
def test_length_at_is_the_smallest_length_that_covers_the_share(lengths, share):
    counts = {length: lengths.count(length) for length in lengths}
    result = length_at(counts, share)
    assert sum(length <= result for length in lengths) >= share * len(lengths)
    assert sum(length < result for length in lengths) < share * len(lengths)


@hypothesis_settings(deadline=None)
@given(st.lists(st.sampled_from("abc")))
def test_seen_is_the_sum_of_kept_and_dropped(reasons):
    tally = Tally(kept=3)
    for reason in reasons:
        tally.drop(reason)
    counts = tally.as_dict()
    assert counts["seen"] == counts["kept"] + sum(counts["dropped"].values()) == 3 + len(reasons)


def test_lengths_in_characters_and_in_tokens():
    lengths = Lengths(["a", "b"], Measure("characters", lambda texts: map(len, texts)))
    for number in range(700):
        lengths.add("a", ["x" * number, "yy"])
    report = lengths.as_dict()
    assert set(report) == {"unit", "a"}
    assert report["a"] == {
        "count": 700, "mean": 351.5, "shortest": 2, "50%": 351, "90%": 631, "99%": 694, "longest": 701,
    }  # fmt: skip
    measure = measure_of(str(MODEL_DIR))
    assert measure.unit == "tokens of model"
    assert list(measure(["My dog.", ""])) == [len(_tokens("My dog.")), 0]


def _tokens(text):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def test_a_model_without_a_tokenizer_is_a_setting_error(tmp_path):
    with pytest.raises(SettingError, match="MODEL="):
        measure_of(str(tmp_path))
