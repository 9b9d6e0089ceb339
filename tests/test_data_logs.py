"""People's own conversations: each form, its branches, and that nothing malformed brings the job down."""

import csv
import gzip
import io
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdpo.data import exports, logs
from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.prepare import InteractionWriter
from sdpo.data.report import Lengths, measure_of
from sdpo.errors import SdpoError
from sdpo.launch import Job

SAID = [
    ("user", "ask 😀"),
    ("assistant", "answer"),
    ("user", "reply שלום"),
    ("assistant", "bye"),
    ("user", "<|im_end|>"),
]
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt"}


def read(path, scratch):
    """Return the conversations of a file, the reasons of what is none, and the rows of each form."""
    forms = Counter()
    found = list(logs.read_conversations(path, scratch, forms))
    kept = [one for one in found if isinstance(one, Conversation)]
    reasons = Counter(one.reason for one in found if isinstance(one, Dropped))
    return kept, reasons, dict(forms)


def read_rows(tmp_path, rows, form):
    """Return the conversations of rows, all in one form."""
    path = tmp_path / "logs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, reasons, forms = read(path, tmp_path)
    assert forms == {form: len(rows)}
    return kept, reasons


def openai(said=SAID, **fields):
    return {"messages": [{"role": role, "content": text} for role, text in said], **fields}


# Every form of the same conversation


def _lines(delimiter=None, order=True):
    rows = [
        {"conversation_id": "c", "role": role, "content": text, "order" if order else "timestamp": _when(place, order)}
        for place, (role, text) in enumerate(SAID)
    ]
    rows = rows[::-1] if order else rows
    if delimiter is None:
        return "".join(json.dumps(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, [name.replace("_", " ").title() for name in rows[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows({name.replace("_", " ").title(): value for name, value in row.items()} for row in rows)
    return text.getvalue()


def _when(place, order):
    return place if order else f"2024-01-01T00:00:0{place}Z"


def node(name, parent, role, text, **fields):
    content = {"content_type": "text", "parts": [text]}
    return {name: {"id": name, "parent": parent, "message": {"author": {"role": role}, "content": content, **fields}}}


def tree(said=SAID):
    mapping = {"root": {"id": "root", "parent": None, "message": None}}
    names = ["root", *(f"n{place}" for place in range(len(said)))]
    for (role, text), parent, name in zip(said, names, names[1:], strict=False):
        mapping |= node(name, parent, role, text)
    return {"mapping": mapping, "current_node": names[-1], "conversation_id": "c", "create_time": 1.5}


def claude(said=SAID):
    names = {"user": "human", "assistant": "assistant"}
    return {
        "uuid": "c", "name": "", "created_at": "2024-01-01",
        "chat_messages": [
            {"uuid": f"m{place}", "sender": names[role], "text": "", "content": [{"type": "text", "text": text}]}
            for place, (role, text) in enumerate(said)
        ],
    }  # fmt: skip


PARTS = openai([(role, [{"type": "text", "text": text}]) for role, text in SAID], id="c")
SHAREGPT = {"id": "c", "conversations": [{"from": SHAREGPT_NAMES[role], "value": text} for role, text in SAID]}
FORMS = {
    "openai.jsonl": (json.dumps(openai(id="c")) + "\n", exports.OPENAI),
    "openai.json": (json.dumps([openai(id="c")], indent=2), exports.OPENAI),
    "one-object.json": (json.dumps(openai(id="c"), indent=2), exports.OPENAI),
    "parts.jsonl": (json.dumps(PARTS), exports.OPENAI),
    "sharegpt.json": (json.dumps([SHAREGPT]), exports.SHAREGPT),
    "conversations.json": (json.dumps([tree()]), exports.CHATGPT),
    "claude.json": (json.dumps([claude()]), exports.CLAUDE),
    "lines.jsonl": (_lines(), exports.MESSAGES),
    "times.jsonl": (_lines(order=False), exports.MESSAGES),
    "lines.csv": (_lines(","), exports.MESSAGES),
    "times.csv": (_lines(";", order=False), exports.MESSAGES),
    "lines.tsv": ("\ufeff" + _lines("\t"), exports.MESSAGES),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(tmp_path, name, packed):
    content, form = FORMS[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    (conversation,), reasons, forms = read(path, tmp_path)
    assert (conversation.id, [tuple(part) for part in conversation.said]) == ("c", SAID)
    assert not reasons
    assert forms == {form: len(SAID) if form == exports.MESSAGES else 1}
    assert conversation.rows == sum(forms.values())


def test_a_list_of_messages_is_a_conversation(tmp_path):
    path = tmp_path / "bare.jsonl"
    path.write_text((json.dumps(openai()["messages"]) + "\n") * 2)
    kept, _, forms = read(path, tmp_path)
    assert [one.id for one in kept] == ["bare.jsonl-0", "bare.jsonl-1"]
    assert forms == {exports.OPENAI: 2}


# Exports


def test_the_branch_that_the_user_kept_is_read(tmp_path):
    """The first question was edited, and so was the last one; a later answer was made anew."""
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
    (one,), _ = read_rows(tmp_path, [row], exports.CHATGPT)
    assert [text for _, text in one.said if text] == ["question", "second answer", "edited reply"]
    assert (one.model, one.timestamp) == ("gpt-4o", None)  # a time of 0 is none
    # Where the export does not say which branch it was, the newest is taken.
    for name, when in (("r", 5.0), ("r2", 4.0), ("old answer", 3.0)):
        mapping[name]["message"]["create_time"] = when
    (one,), _ = read_rows(tmp_path, [{"mapping": mapping, "current_node": "gone"}], exports.CHATGPT)
    assert one.said[-1].text == "reply"


def test_what_an_export_never_showed_is_left_out(tmp_path):
    row = tree([("user", "q"), ("assistant", "a"), ("user", "r")])
    thoughts = node("t", "n0", "assistant", "hm")
    thoughts["t"]["message"]["content"] = {"content_type": "thoughts", "thoughts": []}
    row["mapping"] |= thoughts
    row["mapping"]["n1"]["parent"] = "t"
    row["mapping"]["n0"]["message"]["content"]["parts"] = [{"content_type": "image_asset_pointer"}, "q", ""]
    (one,), _ = read_rows(tmp_path, [row], exports.CHATGPT)
    assert [tuple(part) for part in one.said] == [("user", "q"), ("assistant", "a"), ("user", "r")]


def test_tools_of_an_export_are_noted(tmp_path):
    row = tree([("user", "q"), ("assistant", "print(1)"), ("tool", "1"), ("assistant", "one"), ("user", "thanks")])
    row["mapping"]["n1"]["message"]["recipient"] = "python"
    (one,), _ = read_rows(tmp_path, [row], exports.CHATGPT)
    assert [role for role, _ in one.said] == ["user", "tool", "tool", "assistant", "user"]


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
    _, reasons = read_rows(tmp_path, [row], exports.CHATGPT)
    assert [reason in found for found in reasons] == [True]


def test_the_last_branch_of_a_claude_export_is_read(tmp_path):
    row = claude([("user", "old"), ("assistant", "old answer"), ("user", "new"), ("assistant", "a"), ("user", "r")])
    parents = ["zero", "m0", "zero", "m2", "m3"]
    for message, parent in zip(row["chat_messages"], parents, strict=True):
        message["parent_message_uuid"] = parent
    (one,), _ = read_rows(tmp_path, [row], exports.CLAUDE)
    assert [text for _, text in one.said] == ["new", "a", "r"]
    (one,), _ = read_rows(tmp_path, [row | {"current_leaf_message_uuid": "m1"}], exports.CLAUDE)
    assert [text for _, text in one.said] == ["old", "old answer"]


def test_older_claude_exports_have_only_text(tmp_path):
    messages = [{"uuid": "1", "sender": "human", "text": "q"}, {"uuid": "2", "sender": "assistant", "text": "a"}]
    (one,), _ = read_rows(tmp_path, [{"uuid": "c", "chat_messages": messages}], exports.CLAUDE)
    assert [text for _, text in one.said] == ["q", "a"]


# One message per line


def lines(*rows):
    return [dict(zip(("thread_id", "sender", "body", "time"), row, strict=False)) for row in rows]


def test_messages_are_grouped_and_put_in_order(tmp_path):
    rows = lines(
        ("b", "user", "3", 3), ("a", "bot", "2", 20), ("b", "user", "1", 1), ("a", "user", "1", 3), (7, "ai", "x", 1)
    )
    kept, _ = read_rows(tmp_path, rows, exports.MESSAGES)
    assert [(one.id, [text for _, text in one.said]) for one in kept] == [
        ("b", ["1", "3"]),
        ("a", ["1", "2"]),
        ("7", ["x"]),
    ]


def test_without_order_or_time_lines_stay_as_they_came(tmp_path):
    rows = lines(("a", "user", "2", None), ("a", "bot", "1", None))
    (one,), _ = read_rows(tmp_path, rows, exports.MESSAGES)
    assert [text for _, text in one.said] == ["2", "1"]


def test_a_conversation_with_a_line_that_cannot_be_read_is_left_out_whole(tmp_path):
    rows = lines(("a", "user", "1", 1), ("a", "martian", "2", 2), ("b", "user", "1", 1), ("b", "bot", "2", None))
    rows += lines(("c", "user", "1", "yesterday"), (None, "user", "1", 1))
    kept, reasons = read_rows(tmp_path, rows, exports.MESSAGES)
    assert kept == []
    assert reasons == {
        "a message of unknown role": 2,
        "some of its messages have no order or time": 2,
        "an order or time that cannot be read": 1,
        "no conversation id": 1,
    }


# What is malformed


def _mutated(text, cuts):
    for place, replacement in cuts:
        place %= len(text) + 1
        text = text[:place] + replacement + text[place + len(replacement) :]
    return text


WORDS = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        '"',
        ",",
        "null",
        "\\ud800",
        "\x00",
        "\n",
        '"role"',
        '"user"',
        "9" * 5000,
        "[" * 3000,
        "é",
        "-",
    ]
)
FIELDS = [
    "messages", "role", "content", "conversations", "from", "value", "mapping", "parent", "message", "author", "parts",
    "content_type", "current_node", "chat_messages", "sender", "text", "uuid", "conversation_id", "order", "timestamp",
    "type", "tool_calls", "id", "recipient", "metadata", "create_time", "a", "c",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["user", "c", "a"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)
BROKEN = st.builds(
    _mutated,
    st.sampled_from([content for content, _ in FORMS.values()]),
    st.lists(st.tuples(st.integers(0, 10**4), WORDS), min_size=1, max_size=4),
).map(lambda text: text.encode("utf-8", "surrogatepass"))
MALFORMED = (
    st.binary(max_size=80)
    | BROKEN
    | BROKEN.map(gzip.compress)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.lists(VALUES, max_size=4).map(lambda values: "\n".join(map(json.dumps, values)).encode())
    | st.lists(VALUES, max_size=4).map(lambda values: json.dumps(values).encode())
)


@hypothesis_settings(
    max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(content=MALFORMED)
def test_nothing_malformed_brings_it_down_and_every_row_is_counted(tmp_path, monkeypatch, capsys, content):
    """The whole job, its picture aside: it ends with a report that adds up, or with one error of ours."""
    path = tmp_path / "input"
    path.write_bytes(content)
    counted = []
    monkeypatch.setattr(logs, "_rows", _counting(_ROWS, counted))
    tallies = []
    monkeypatch.setattr(logs, "refuse_nothing", lambda tally, place: tallies.append(tally) or _REFUSE(tally, place))
    monkeypatch.setattr(logs, "finish", lambda *_: None)
    settings = SimpleNamespace(input=path, out_dir=tmp_path / "out", force=False, model=None, seed=42)
    try:
        logs.run(settings, Job(name="prep-logs", summary="", settings=object, run=""))
    except SdpoError as error:
        assert "\n" not in str(error)
    for tally in tallies:
        assert tally.seen == len(counted)
    assert list((tmp_path / "out").iterdir()) == []


_ROWS, _REFUSE = logs._rows, logs.refuse_nothing


def _counting(rows, counted):
    def read(path):
        for row in rows(path):
            counted.append(row)
            yield row

    return read


def test_an_id_that_is_there_twice_is_counted(tmp_path):
    writer = InteractionWriter(Lengths(logs.KINDS, measure_of(None)))
    file = io.BytesIO()
    for conversation in read_rows(tmp_path, [openai(id="c"), openai(id="c"), openai(id="d")], exports.OPENAI)[0]:
        writer.add(conversation, file)
    assert writer.rows.as_dict() == {"seen": 3, "kept": 2, "dropped": {"an id that an earlier conversation has": 1}}
    assert writer.duplicates == 1
    ids = [json.loads(line)["id"] for line in file.getvalue().splitlines()]
    assert ids == ["c_1", "c_3", "d_1", "d_3"]
