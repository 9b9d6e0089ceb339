"""Malformed input to prep-logs: the job does not crash, and every row is counted."""

import gzip
import io
import json
from collections import Counter

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdpo.data import inputs, logs
from sdpo.data.prepare import InteractionWriter
from sdpo.data.report import Lengths, measure_of
from sdpo.errors import SdpoError
from tests import preparation
from tests.conversations import FORMS, OPENAI, openai, read_rows


def _mutated(text, cuts):
    for position, replacement in cuts:
        position %= len(text) + 1
        text = text[:position] + replacement + text[position + len(replacement) :]
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
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(content=MALFORMED)
def test_malformed_input_is_an_sdpo_error_or_a_report_that_counts_every_row(tmp_path, monkeypatch, capsys, content):
    """Runs the complete job except for the figure."""
    path = tmp_path / "input"
    path.write_bytes(content)
    counted = []
    monkeypatch.setattr(logs, "rows_of", _counting(_ROWS, counted))
    tallies = []
    monkeypatch.setattr(logs, "check_not_empty", lambda tally, *said: tallies.append(tally) or _CHECK(tally, *said))
    monkeypatch.setattr(logs, "finish", lambda *_: None)
    try:
        preparation.run_unchecked(path, tmp_path / "out")
    except SdpoError as error:
        assert "\n" not in str(error)
    for tally in tallies:
        assert tally.seen == len(counted)
    assert list((tmp_path / "out").iterdir()) == []


_ROWS, _CHECK = inputs.rows_of, logs.check_not_empty


def _counting(rows, counted):
    def read(path):
        for row in rows(path):
            counted.append(row)
            yield row

    return read


def test_a_repeated_conversation_id_is_counted(tmp_path):
    writer = InteractionWriter(Lengths(logs.KINDS, measure_of(None)))
    file = io.BytesIO()
    for conversation in read_rows(tmp_path, [openai(id="c"), openai(id="c"), openai(id="d")], OPENAI)[0]:
        writer.add(conversation, file)
    assert writer.rows.as_dict() == {"seen": 3, "kept": 2, "dropped": {"an id that an earlier conversation has": 1}}
    assert writer.duplicates == 1
    ids = [json.loads(line)["id"] for line in file.getvalue().splitlines()]
    assert ids == ["c_1", "c_3", "d_1", "d_3"]


def test_the_report_names_the_first_row_dropped_for_each_reason(tmp_path):
    path = tmp_path / "chats.jsonl"
    lines = [json.dumps(openai(id="c")), '{"messages": [', "[1]", '{"messages": [', '{"some": "thing"}']
    path.write_text("\n".join(lines) + "\n")
    writer = InteractionWriter(Lengths(logs.KINDS, measure_of(None)))
    for conversation in logs.read_conversations(path, tmp_path, Counter()):
        writer.add(conversation, io.BytesIO())
    first = writer.rows.as_dict()["first"]
    assert first["not JSON"] == "chats.jsonl, row 2"
    assert sorted(first.values()) == ["chats.jsonl, row 2", "chats.jsonl, row 3, which has no fields"]
