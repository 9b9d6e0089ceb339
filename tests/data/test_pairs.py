"""Rows with a question and an answer, and rows with one message: their order, their replies, requests that repeat."""

import pytest

from sdpo.data.conversation import interactions
from tests.conversations import LINES, openai, read_rows

PAIRS = "question and answer per row"


def table(header, *rows):
    return [dict(zip(header.split(), row, strict=True)) for row in rows]


def texts(conversation):
    return " ".join(text for _, text, *_ in conversation.messages)


@pytest.mark.parametrize("name", ["request", "prompt"])
def test_requests_of_a_session_that_repeat_the_conversation_are_not_joined(tmp_path, name):
    said = [("user", "Q1"), ("assistant", "A1"), ("user", "Q2"), ("assistant", "A2"), ("user", "Q3")]
    rows = []
    for end in (1, 3, 5):
        request = openai(said[:end])
        answer = {"choices": [{"message": {"role": "assistant", "content": f"A{end // 2 + 1}"}}]}
        rows.append(
            {"session_id": "s", name: request if name == "request" else request["messages"], "response": answer}
        )
    kept, reasons = read_rows(tmp_path, rows, PAIRS)
    assert [texts(one) for one in kept] == ["Q1 A1", "Q1 A1 Q2 A2", "Q1 A1 Q2 A2 Q3 A3"] and not reasons
    assert [(one.completion, one.user_response) for one in interactions(kept[2])] == [("A1", "Q2"), ("A2", "Q3")]


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("turn time", [(2, "2025-05-05 10:03"), (2, "2025-05-05 10:02"), (1, "2025-05-05 10:01"), (1, "2025-05-04")]),
        ("time", [("2025-05-05 10:03",), ("2025-05-05 10:03",), ("2025-05-05 10:01",), ("2025-05-05 10:01",)]),
        ("turn", [(2,), (2,), (1,), (1,)]),
    ],
)  # fmt: skip
def test_messages_of_one_turn_or_minute_are_in_order_where_the_latest_is_first(tmp_path, header, rows):
    said = [("assistant", "A2"), ("user", "Q2"), ("assistant", "A1"), ("user", "Q1")]
    rows = table(f"chat_id role content {header}", *(("c", *one, *row) for one, row in zip(said, rows, strict=True)))
    for given in (rows, rows[::-1]):
        (one,), _ = read_rows(tmp_path, given, LINES)
        assert texts(one) == "Q1 A1 Q2 A2"


def test_turns_with_the_question_first_stay_so_where_the_latest_turn_is_first(tmp_path):
    said = [("user", "Q2", 2), ("assistant", "A2", 2), ("user", "Q1", 1), ("assistant", "A1", 1)]
    (one,), _ = read_rows(tmp_path, table("chat_id role content turn", *(("c", *row) for row in said)), LINES)
    assert texts(one) == "Q1 A1 Q2 A2"


def test_pairs_whose_order_is_not_known_are_dropped(tmp_path):
    header = "chat_id prompt response date"
    rows = table(header, ("c", "Q2", "A2", "2025-05-05 10:03"), ("c", "Q1", "A1", "04/03/2025 10:01"))
    kept, reasons = read_rows(tmp_path, rows, PAIRS)
    assert not kept and reasons == {"an order or time that cannot be read": 2}
    rows = table(header, ("c", "Q2", "A2", "2025-05-05 10:03"), ("c", "Q1", "A1", None))
    assert read_rows(tmp_path, rows, PAIRS)[1] == {"some of its messages have no order or time": 2}
    rows = table(header, ("c", "Q2", "A2", "2025-05-05 10:03"), ("c", "Q1", "A1", "2025-05-05 10:03"),
                 ("c", "Q0", "A0", "2025-05-05 10:01"))  # fmt: skip
    (one,), _ = read_rows(tmp_path, rows, PAIRS)
    assert texts(one) == "Q0 A0 Q1 A1 Q2 A2"
    (one,), _ = read_rows(tmp_path, table(header, ("c", "Q1", "A1", "04/03/2025 10:01")), PAIRS)
    assert texts(one) == "Q1 A1"


@pytest.mark.parametrize(
    ("columns", "reply", "rating"),
    [
        ({"user_response": "No"}, "No", None),
        ({"user_response": "42"}, "42", None),
        ({"feedback": "thumbs up", "next_message": "Shorter"}, "Shorter", 1),
        ({"user_feedback": "No", "follow_up": "Why?"}, "Why?", -1),
        ({"feedback": "neutral"}, None, None),
        ({"feedback": "It is too long."}, "It is too long.", None),
    ],
)
def test_a_short_reply_is_no_rating_and_a_rating_is_no_reply(tmp_path, columns, reply, rating):
    (one,), _ = read_rows(tmp_path, [{"prompt": "Q", "response": "A", **columns}], PAIRS)
    assert [text for _, text, *_ in one.messages] == ["Q", "A", *([reply] if reply else [])]
    assert one.messages[1].rating == rating


def test_the_first_column_with_a_known_role_counts(tmp_path):
    rows = table(
        "chat_id author author_type body",
        ("c", "Maria", "user", "Q"),
        ("c", "Ann", "bot", "A"),
        ("c", "", "user", "no"),
    )
    (one,), reasons = read_rows(tmp_path, rows, LINES)
    assert [(role, text) for role, text, *_ in one.messages] == [("user", "Q"), ("assistant", "A"), ("user", "no")]
    assert not reasons
