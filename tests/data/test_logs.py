"""Reading exported and logged conversations: each format, its branches, and one message per line."""

import gzip
import json

import pytest

from sdpo.data.conversation import interactions
from tests.conversations import (
    CHATGPT,
    CLAUDE,
    FORMS,
    LINES,
    MESSAGES,
    OPENAI,
    claude,
    node,
    openai,
    read,
    read_rows,
    tree,
)

# The same conversation in every format


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_conversation(tmp_path, name, compressed):
    content, format_name = FORMS[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if compressed else content.encode())
    (conversation,), reasons, formats = read(path, tmp_path)
    assert (conversation.id, [part[:2] for part in conversation.messages]) == ("c", MESSAGES)
    assert not reasons
    assert formats == {format_name: len(MESSAGES) if format_name == LINES else 1}
    assert conversation.rows == sum(formats.values())


def test_a_bare_list_of_messages_is_a_conversation(tmp_path):
    path = tmp_path / "bare.jsonl"
    path.write_text((json.dumps(openai()["messages"]) + "\n") * 2)
    kept, _, formats = read(path, tmp_path)
    assert [one.id for one in kept] == ["bare.jsonl-0", "bare.jsonl-1"]
    assert formats == {OPENAI: 2}


# Exports


def test_the_current_branch_of_a_chatgpt_export_is_read(tmp_path):
    """The first and the last user message were edited; one answer was regenerated."""
    mapping = {"root": {"parent": None, "message": None}}
    mapping |= node("s", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True})
    mapping |= node("old", "s", "user", "old question")
    mapping |= node("old answer", "old", "assistant", "old answer")
    mapping |= node("q", "s", "user", "question")
    mapping |= node("a1", "q", "assistant", "first answer")
    mapping |= node("a2", "q", "assistant", "second answer", metadata={"model_slug": "gpt-4o"})
    mapping |= node("r", "a2", "user", "reply")
    mapping |= node("r2", "a2", "user", "edited reply")
    row = {"mapping": mapping, "current_node": "r2", "id": "c", "create_time": 0}
    (one,), _ = read_rows(tmp_path, [row], CHATGPT)
    assert [text for _, text, *_ in one.messages if text] == ["question", "second answer", "edited reply"]
    assert (one.model, one.timestamp) == ("gpt-4o", None)  # a time of 0 means unknown
    # If the export does not name the current branch, the newest is read.
    for name, when in (("r", 5.0), ("r2", 4.0), ("old answer", 3.0)):
        mapping[name]["message"]["create_time"] = when
    (one,), _ = read_rows(tmp_path, [{"mapping": mapping, "current_node": "gone"}], CHATGPT)
    assert one.messages[-1].text == "reply"


def test_contents_that_were_never_shown_are_skipped(tmp_path):
    row = tree([("user", "q"), ("assistant", "a"), ("user", "r")])
    thoughts = node("t", "n0", "assistant", "hm")
    thoughts["t"]["message"]["content"] = {"content_type": "thoughts", "thoughts": []}
    row["mapping"] |= thoughts
    row["mapping"]["n1"]["parent"] = "t"
    row["mapping"]["n0"]["message"]["content"]["parts"] = [{"content_type": "image_asset_pointer"}, "q", ""]
    (one,), _ = read_rows(tmp_path, [row], CHATGPT)
    assert [part[:2] for part in one.messages if part.text] == [("user", "q"), ("assistant", "a"), ("user", "r")]
    (interaction,) = interactions(one)
    assert (interaction.prompt[-1]["content"], interaction.completion) == ("q", "a")


def test_tool_calls_in_an_export_become_tool_messages(tmp_path):
    row = tree([("user", "q"), ("assistant", "print(1)"), ("tool", "1"), ("assistant", "one"), ("user", "thanks")])
    row["mapping"]["n1"]["message"]["recipient"] = "python"
    (one,), _ = read_rows(tmp_path, [row], CHATGPT)
    assert [role for role, *_ in one.messages] == ["user", "tool", "tool", "assistant", "user"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"mapping": {}}, "broken tree"),
        ({"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}, "current_node": "a"}, "broken tree"),
        ({"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}}, "broken tree"),
        ({"mapping": {"a": None}}, "broken tree"),
        ({"mapping": {"a": {"parent": None, "message": None}}}, "no messages"),
        ({"mapping": {"a": {"message": 3}}}, "not an object"),
        ({"mapping": {"a": {"message": {"author": None}}}}, "unknown role"),
        ({"mapping": {"a": {"message": {"author": {"role": "user"}, "content": "x"}}}}, "not text"),
    ],
)
def test_a_broken_export_gives_the_reason(tmp_path, row, reason):
    _, reasons = read_rows(tmp_path, [row], CHATGPT)
    assert [reason in given for given in reasons] == [True]


def test_the_last_branch_of_a_claude_export_is_read(tmp_path):
    row = claude([("user", "old"), ("assistant", "old answer"), ("user", "new"), ("assistant", "a"), ("user", "r")])
    parents = ["zero", "m0", "zero", "m2", "m3"]
    for message, parent in zip(row["chat_messages"], parents, strict=True):
        message["parent_message_uuid"] = parent
    (one,), _ = read_rows(tmp_path, [row], CLAUDE)
    assert [text for _, text, *_ in one.messages] == ["new", "a", "r"]
    (one,), _ = read_rows(tmp_path, [row | {"current_leaf_message_uuid": "m1"}], CLAUDE)
    assert [text for _, text, *_ in one.messages] == ["old", "old answer"]


def test_older_claude_exports_have_only_text(tmp_path):
    messages = [{"uuid": "1", "sender": "human", "text": "q"}, {"uuid": "2", "sender": "assistant", "text": "a"}]
    (one,), _ = read_rows(tmp_path, [{"uuid": "c", "chat_messages": messages}], CLAUDE)
    assert [text for _, text, *_ in one.messages] == ["q", "a"]


# One message per line


def lines(*rows):
    return [dict(zip(("thread_id", "sender", "body", "time"), row, strict=False)) for row in rows]


def test_messages_are_grouped_by_conversation_and_sorted(tmp_path):
    rows = lines(
        ("b", "user", "3", 3), ("a", "bot", "2", 20), ("b", "user", "1", 1), ("a", "user", "1", 3), (7, "ai", "x", 1)
    )
    kept, _ = read_rows(tmp_path, rows, LINES)
    assert [(one.id, [text for _, text, *_ in one.messages]) for one in kept] == [
        ("b", ["1", "3"]),
        ("a", ["1", "2"]),
        ("7", ["x"]),
    ]


def test_lines_without_order_or_time_keep_their_order(tmp_path):
    rows = lines(("a", "user", "2", None), ("a", "bot", "1", None))
    (one,), _ = read_rows(tmp_path, rows, LINES)
    assert [text for _, text, *_ in one.messages] == ["2", "1"]


def test_a_conversation_with_one_unreadable_line_is_dropped(tmp_path):
    rows = lines(("a", "user", "1", 1), ("a", "martian", "2", 2), ("b", "user", "1", 1), ("b", "bot", "2", None))
    rows += lines(("c", "user", "1", "yesterday"), (None, "user", "1", 1))
    kept, reasons = read_rows(tmp_path, rows, LINES)
    assert kept == []
    assert reasons == {
        "a message of unknown role": 2,
        "some of its messages have no order or time": 2,
        "an order or time that cannot be read": 1,
        "no conversation id": 1,
    }
