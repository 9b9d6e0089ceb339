"""Recorded interactions to replay: whether the user was satisfied is read, or refused with file, line and field."""

import json

import pytest

from sdpo.errors import RecordError
from sdpo.text.records import Replay, read_replays

ROW = {"prompt": "ask", "completion": "answer", "follow_up": "reply"}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_satisfied_may_be_true_false_null_or_missing(tmp_path):
    rows = [ROW | {"satisfied": value} for value in (True, False, None)]
    path = written(tmp_path / "samples.jsonl", *rows, ROW, ROW | {"satisfied": True, "signal": [0.1], "tokens": ["a"]})
    replays = read_replays(path)
    assert [row.satisfied for row in replays] == [True, False, None, None, True]
    assert replays[0] == Replay("ask", "answer", "reply", True)


@pytest.mark.parametrize("value", ["yes", "true", 1, 0, 1.0, [], [True], {}, {"satisfied": True}])
def test_another_value_is_refused_with_file_line_and_field(tmp_path, value):
    path = written(tmp_path / "samples.jsonl", ROW | {"satisfied": True}, ROW | {"satisfied": value}, ROW)
    with pytest.raises(RecordError) as caught:
        read_replays(path)
    message = str(caught.value)
    assert f"{path}, line 2: field satisfied" in message and "\n" not in message
    assert all(word in message for word in ("true", "false", "null"))


def test_an_answer_is_finished_unless_its_row_says_that_it_was_truncated(tmp_path):
    rows = [ROW, ROW | {"finished": True}, ROW | {"finished": False}]
    assert [row.finished for row in read_replays(written(tmp_path / "a.jsonl", *rows))] == [True, True, False]
    with pytest.raises(RecordError, match="line 1: field finished must be true or false"):
        read_replays(written(tmp_path / "b.jsonl", ROW | {"finished": None}))


def test_an_empty_follow_up_may_be_replayed_but_no_empty_answer(tmp_path):
    assert read_replays(written(tmp_path / "a.jsonl", ROW | {"follow_up": ""}))[0].follow_up == ""
    for field in ("prompt", "completion"):
        with pytest.raises(RecordError, match=f"line 1: field {field}"):
            read_replays(written(tmp_path / "b.jsonl", ROW | {field: " "}))


def test_a_file_without_rows_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(RecordError, match="nothing to replay"):
        read_replays(tmp_path / "empty.jsonl")
