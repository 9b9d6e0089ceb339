import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.errors import RecordError
from sdpo.text.records import Interaction, Prompt, interaction_lines, prompt_lines, read_interactions, read_prompts


@given(st.lists(st.text(min_size=1).filter(str.strip), max_size=5))
def test_prompts_are_read_as_they_were_written(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("records") / "prompts.jsonl"
    prompts = [Prompt(str(number), text) for number, text in enumerate(texts)] or [Prompt("0", "x")]
    lines = list(prompt_lines(prompts))
    path.write_text("".join(lines), "utf-8", newline="\n")
    assert read_prompts(path, "make prep-tldr") == prompts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"id": "a", "prompt": "x"}\n{"id": "b"}\n', "line 2.*prompt"),
        (b'{"id": "a", "prompt": 3}\n', "line 1.*prompt"),
        (b'{"id": "a", "prompt": "  "}\n', "line 1.*prompt"),
        (b'{"prompt": "x"}\n', "line 1.*id"),
        (b'{"id": "a", "prompt": "x"}\n\n{"id": "a", "prompt": "y"}\n', "line 3.*twice"),
        (b'{"id": "a", "prompt": "x"}\n["list"]\n', "line 2"),
        (b'{"id": "a", "prompt"\n', "line 1"),
        (b"", "no prompt"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_with_its_path_and_line(tmp_path, content, expected):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=expected) as caught:
        read_prompts(path, "make prep-tldr")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ('{"id": "b" "prompt": "q"}', "column 12 is not JSON (Expecting ',' delimiter). Fix or remove that line."),
        ('{"id": "b", "prompt": ', "column 23 is not JSON (Expecting value). Fix or remove that line."),
        ("[" * 100_000, "line 2 is not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_line_that_is_no_json_is_named_by_one_line_number_and_the_column(tmp_path, line, ending):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"id": "a", "prompt": "q"}}\n{line}\n')
    with pytest.raises(RecordError) as caught:
        read_prompts(path, "")
    message = str(caught.value)
    assert ending in message and message.count("line 2") == 1 and "line 1" not in message and "char" not in message


def test_the_error_for_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(RecordError, match="make prep-tldr"):
        read_prompts(tmp_path / "none.jsonl", "make prep-tldr")


def test_conversations_in_place_of_interactions_are_answered_with_the_job_that_prepares_them(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(RecordError, match=f"chats.jsonl, line 1: this is a conversation.*make prep-logs INPUT={path}$"):
        list(read_interactions(path, ""))


def test_prompts_in_place_of_interactions_are_answered_with_the_job_that_takes_them(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "prompt": "Why?"}\n')
    with pytest.raises(
        RecordError, match=r"line 1: this is a prompt, not an interaction, as make prep-logs .*\. Train on"
    ):
        list(read_interactions(path, ""))


def test_the_samples_of_an_online_run_in_place_of_interactions_are_answered_with_what_prepares_them(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 1, "prompt": "Why?", "completion": "So.", "follow_up": "Shorter."}\n')
    (tmp_path / "run.json").write_text("{}")
    for place, words in ((path, "a sample of an online run"), (tmp_path, "is the directory of a run")):
        with pytest.raises(RecordError, match=rf"{words}.*: make prep-logs INPUT={re.escape(str(path))}$"):
            list(read_interactions(place, ""))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"messages": []}', "this is a conversation, not a prompt with its id. Prepare conversations for offline "
         "training with: make prep-logs INPUT={path}"),
        ('{"id": "a", "prompt": [], "user_response": "x"}', "this is an interaction, not a prompt. Train on such rows "
         "with: make train-offline TRAIN_JSONL={path}"),
        ('{"messages": [], "prompt": "hi"}', "field id must be a non-empty string. Fix or remove that line."),
    ],
)  # fmt: skip
def test_other_records_in_place_of_prompts_are_answered_with_the_job_that_takes_them(row, words, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(RecordError) as caught:
        read_prompts(path, "")
    assert str(caught.value) == f"{path}, line 1: {words.format(path=path)}"


# Interactions

U, A, S = ("user", "assistant", "system")


def interaction(**changed):
    prompt = [{"role": U, "content": "ask"}]
    fields = {"id": "a_1", "conversation_id": "a", "turn_id": 1, "model": None, "timestamp": "2024", "prompt": prompt}
    return Interaction(**(fields | {"completion": "answer", "user_response": "reply"} | changed))


def messages(*roles):
    return [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]


@pytest.mark.parametrize("roles", [(U,), (S, U), (U, A, U), (S, U, A, U, A, U)])
def test_interactions_are_read_as_they_were_written(tmp_path, roles):
    path = tmp_path / "interactions.jsonl"
    rows = [
        interaction(prompt=messages(*roles)),
        interaction(id="b", completion="<|im_end|>\u2028 😀 שלום", model="m", finished=False),
    ]
    lines = list(interaction_lines(rows))
    assert "finished" not in json.loads(lines[0]) and json.loads(lines[1])["finished"] is False
    path.write_text("".join(lines), "utf-8", newline="\n")
    assert list(read_interactions(path, "make prep-logs")) == rows
    row = json.loads(lines[1])
    lengths = [row[name] for name in ("prompt_length", "completion_length", "user_response_length")]
    assert lengths == [3, len(rows[1].completion), 5]
    # The lengths may be omitted, as in a file written by hand.
    path.write_text(json.dumps({name: value for name, value in row.items() if not name.endswith("length")}))
    assert list(read_interactions(path, "make prep-logs")) == rows[1:]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"id": ""}, "field id"),
        ({"conversation_id": None}, "field conversation_id"),
        ({"completion": " \n"}, "field completion"),
        ({"completion": ["answer"]}, "field completion"),
        ({"user_response": None}, "field user_response"),
        ({"user_response": "\ud800"}, "field user_response"),
        ({"turn_id": -1}, "field turn_id"),
        ({"turn_id": True}, "field turn_id"),
        ({"turn_id": "1"}, "field turn_id"),
        ({"model": 4}, "field model"),
        ({"timestamp": 1.5}, "field timestamp"),
        ({"finished": "no"}, "field finished must be true or false"),
        ({"prompt": []}, "field prompt"),
        ({"prompt": "ask"}, "field prompt"),
        ({"prompt": ["ask"]}, r"field prompt\[0\]"),
        ({"prompt": [{"role": U, "content": None}]}, r"field prompt\[0\].content"),
        ({"prompt": [{"role": U, "content": "x"}, {"role": A}]}, r"field prompt\[1\].content"),
        *(
            ({"prompt": messages(*roles)}, "field prompt: its roles")
            for roles in [(A,), (S,), (U, A), (U, U), (U, A, S, U)]
        ),
        ({"prompt": messages(A, U)}, "field prompt: its roles"),
        ({"prompt": messages("human")}, "field prompt: its roles"),
    ],
)
def test_an_invalid_interaction_is_neither_written_nor_read(tmp_path, changed, field):
    with pytest.raises(RecordError, match=field):
        list(interaction_lines([interaction(**changed)]))
    path = tmp_path / "interactions.jsonl"
    good = next(interaction_lines([interaction(id="good")]))
    row = {name: value for name, value in json.loads(good).items() if not name.endswith("length")}
    path.write_text(good + json.dumps(row | changed) + "\n")
    with pytest.raises(RecordError, match=f"line 2.*{field}") as caught:
        list(read_interactions(path, "make prep-logs"))
    assert str(path) in str(caught.value) and "make prep-logs" in str(caught.value)


def test_a_wrong_length_is_refused(tmp_path):
    path = tmp_path / "interactions.jsonl"
    row = json.loads(next(interaction_lines([interaction()])))
    path.write_text(json.dumps(row | {"completion_length": 5}))
    with pytest.raises(RecordError, match=r"line 1.*completion_length must be 6"):
        list(read_interactions(path, "make prep-logs"))


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_interactions_is_refused(tmp_path, content):
    path = tmp_path / "interactions.jsonl"
    path.write_text(content)
    with pytest.raises(RecordError, match="no interaction"):
        list(read_interactions(path, "make prep-logs"))


def test_a_byte_order_mark_is_no_fault_and_a_compressed_file_is_called_one(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('{"id": "a", "prompt": "Warum ü?"}\n'.encode("utf-8-sig"))
    assert [row.prompt for row in read_prompts(path, "")] == ["Warum ü?"]
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(RecordError, match=r"prompts\.jsonl is compressed\. Unpack it with gunzip"):
        read_prompts(path, "")
