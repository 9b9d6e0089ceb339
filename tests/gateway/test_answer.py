"""Streams that are split anywhere, and the pieces in which an arriving answer is kept."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.data.redact import Redactor
from sdpo.gateway.answer import Answer, EventStream, messages_of, whole_answer
from sdpo.gateway.draft import Draft, settled_length
from sdpo.gateway.exchanges import Exchange, read_request
from tests.gateway.upstreams import TOOL, completion, events

MESSAGES = [
    {"role": "assistant", "content": "A text with “quotes”, 中文 and an emoji 🙂.\nAnd a line."},
    {"role": "assistant", "content": None, "tool_calls": [TOOL, {**TOOL, "id": "call_2"}]},
    {"role": "assistant", "content": "Both.", "tool_calls": [TOOL]},
]


@given(st.sampled_from(MESSAGES), st.lists(st.integers(1, 40), min_size=1), st.integers(1, 9))
@settings(deadline=None)
def test_a_stream_split_anywhere_gives_the_message_that_came_in_one_piece(message, sizes, size):
    stream = b"".join(events(message, {"model": "m"}, size))
    answer, reader, at, number = Answer(), EventStream(), 0, 0
    while at < len(stream):
        length = sizes[number % len(sizes)]
        for value in reader.feed(stream[at : at + length]):
            answer.done = answer.done or value is EventStream.DONE
            answer.add(value)
        at, number = at + length, number + 1
    assert answer.done and not reader.close()
    assert answer.messages() == whole_answer(completion(message, {}))[0] == [message]
    assert answer.finish_reason == ("tool_calls" if message.get("tool_calls") else "stop")


def test_an_event_counts_before_its_blank_line_and_broken_ones_do_not_count():
    reader = EventStream()
    assert reader.feed(b'data: {"a": 1}') == [] and reader.inside
    assert reader.feed(b"\n") == [{"a": 1}]
    assert reader.feed(b"\ndata: {\n\nevent: x\ndata:[DONE]\r\n\r\n") == [EventStream.DONE]
    assert reader.feed(b'data: {"a":\ndata: 2}\n\n') == [{"a": 2}]
    assert reader.feed(b'data: {"a": 3}') == [] and reader.close() == [{"a": 3}]


NAMES = ["choices", "delta", "index", "content", "tool_calls", "function", "arguments", "usage"]
PLAIN = st.none() | st.booleans() | st.integers() | st.text()
ANYTHING = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner))


@given(ANYTHING)
def test_no_chunk_of_any_form_is_an_error(chunk):
    answer = Answer()
    answer.add(chunk)
    answer.add({"choices": [chunk]})
    answer.add({"choices": [{"delta": chunk}]})
    whole_answer(chunk)
    json.dumps(answer.messages())


def test_choices_are_kept_apart():
    answer = Answer()
    answer.add({"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]})
    answer.add({"choices": [{"index": 1, "delta": {"content": "B"}}]})
    assert [message["content"] for message in answer.messages()] == ["a", "bB"]


KEY = "-----BEGIN PRIVATE KEY-----\nabc\n"
WORDS = st.lists(st.sampled_from(["hello", "\n", ". ", "mail anna@example.com", "a word", KEY, "x" * 50]), max_size=60)


@given(WORDS, st.integers(1, 30))
@settings(deadline=None, max_examples=60)
def test_the_pieces_are_the_text_without_what_is_private(words, size):
    text = " ".join(words) + "-----END PRIVATE KEY-----" * ("-----BEGIN" in " ".join(words))
    request = read_request([{"role": "user", "content": "go on"}], Redactor(True))
    answer = Answer()
    draft = Draft(Exchange("c", "", "", request), answer)
    rows: dict[tuple[str, int], str] = {}
    for at in range(0, len(text), size):
        changed = answer.add({"choices": [{"index": 0, "delta": {"content": text[at : at + size]}}]})
        for row in draft.so_far(changed).get("pieces", []):
            rows[row["channel"], row["number"]] = json.loads(row["text"])
    if text:
        kept = "".join(rows["content", number] for number in range(len(rows)))
        assert messages_of({"content": kept}) == json.loads(draft.finished(True)["finishes"][0]["answers"])


def test_a_long_text_is_settled_at_the_ends_of_lines_but_not_inside_a_key():
    assert settled_length("short\n") == 0
    text = "A line of words.\n" * 20
    assert text[: settled_length(text)].endswith(".\n") and len(text) - settled_length(text) >= 80
    assert settled_length("-----BEGIN PRIVATE KEY-----\n" + "abc\n" * 100) == 0
