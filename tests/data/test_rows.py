"""The pure functions that turn a row into records, or give the reason why it is dropped."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdpo.data import rows
from sdpo.data.conversation import (
    HALF,
    NO_TEXT,
    THOUGHTS,
    Conversation,
    Dropped,
    SourceMessage,
    interactions,
)
from sdpo.data.messages import content_of, read_messages
from sdpo.data.times import moment, time_of
from sdpo.text.records import Interaction, interaction_lines
from tests.raw_data import slow_interactions


def made(*messages):
    """Return the interactions of a conversation, and the reasons of the dropped answers."""
    results = interactions(Conversation("c", [SourceMessage(role, text) for role, text in messages]))
    kept = [one for one in results if isinstance(one, Interaction)]
    list(interaction_lines(kept))  # all of them can be written
    return kept, [one.reason for one in results if isinstance(one, Dropped)]


U, A, S, T = "user", "assistant", "system", "tool"


def test_an_answer_between_two_user_messages_is_an_interaction():
    (one,), reasons = made((U, "ask"), (A, "answer"), (U, "reply"))
    assert (one.id, one.turn_id, one.prompt) == ("c_1", 1, [{"role": "user", "content": "ask"}])
    assert (one.completion, one.user_response, reasons) == ("answer", "reply", [])


def test_two_messages_of_one_role_are_joined():
    (one,), _ = made((U, "ask"), (U, "I mean this"), (A, "yes"), (A, "and more"), (U, "no"), (U, "wait"))
    assert one.prompt[0]["content"] == "ask\n\nI mean this"
    assert (one.completion, one.user_response) == ("yes\n\nand more", "no\n\nwait")


def test_the_history_is_five_messages_that_start_and_end_with_the_user():
    messages = [((U, A)[index % 2], str(index)) for index in range(11)]
    last = made(*messages)[0][-1]
    assert [message["content"] for message in last.prompt] == ["4", "5", "6", "7", "8"]
    # If the assistant starts the conversation, its message at the start of the window is dropped.
    last = made((A, "hello"), *messages[:7])[0][-1]
    assert [message["role"] for message in last.prompt] == [U, A, U, A, U]


def test_an_answer_without_a_user_message_before_it_is_dropped():
    kept, reasons = made((A, "hello"), (U, "hi"), (A, "how are you"), (U, "fine"))
    assert [one.turn_id for one in kept] == [2]
    assert reasons == ["nothing was asked before the answer"]


def test_a_system_message_is_in_the_prompt_of_every_later_answer():
    messages = [(S, "be kind"), (U, "1"), (A, "2"), (U, "3"), (S, "be short"), (A, "4"), (U, "5")]
    first, second = made(*messages)[0]
    assert first.prompt[0] == {"role": "system", "content": "be kind"}
    assert second.prompt[0] == {"role": "system", "content": "be kind\n\nbe short"}
    assert [message["role"] for message in second.prompt] == [S, U, A, U]


def test_answers_with_a_tool_call_in_turn_or_history_are_dropped():
    kept, reasons = made((U, "1"), (A, "let me look"), (T, ""), (A, "found"), (U, "2"), (A, "3"), (U, "4"))
    assert (kept, reasons) == ([], ["a tool was used"] * 2)
    later = [((U, A)[index % 2], f"later {index}") for index in range(9)]
    kept, reasons = made((U, "1"), (T, ""), (A, "found"), *later)
    assert len(reasons) == 3 and kept[0].prompt[0]["content"] == "later 0"


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([U, A]), st.sampled_from(["a", "b", "c c", "😀"])), max_size=14))
def test_interactions_match_the_reference_implementation(messages):
    kept, _ = made(*messages)
    expected = slow_interactions("c", messages)
    assert [(one.id, one.prompt, one.completion, one.user_response) for one in kept] == [
        (row["id"], row["prompt"], row["completion"], row["user_response"]) for row in expected
    ]


def test_message_formats_can_be_mixed_and_control_tokens_stay_text():
    messages = read_messages(
        [
            {"from": "human", "value": " hi <|im_end|>"},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, "b"]},
            {"from": None, "role": "USER", "value": "old", "content": "new"},
            {"role": "developer", "content": "s"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        ]
    )
    assert [one[:2] for one in messages] == [(U, "hi <|im_end|>"), (A, "a\nb"), (U, "new"), (S, "s"), (T, "")]
    assert [one.beside for one in messages] == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "no messages"),
        ([], "no messages"),
        ("text", "no messages"),
        ([None], "not an object"),
        ([{"content": "x"}], "unknown role"),
        ([{"role": 3, "content": "x"}], "unknown role"),
        ([{"role": "user", "content": 3}], "not text"),
        ([{"role": "user", "content": {"a": 1}}], "not text"),
    ],
)
def test_malformed_messages_give_the_reason(messages, reason):
    result = read_messages(messages)
    assert isinstance(result, Dropped) and reason in result.reason


def _row(*messages, **fields):
    return {
        "conversation": [{"role": role, "content": text} for role, text in messages],
        "language": "English",
        **fields,
    }


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([(U, "a"), (A, "b")], "fewer than 3"),
        ([(U, "a"), (A, " "), (U, "c")], "fewer than 3"),
        ([(U, "x" * 4000), (A, "x" * 4000)] * 12 + [(U, "x" * 4001)], "100,000 characters"),
        ([(U, "a"), (A, "x" * 4097), (U, "c")], "an answer over"),
        ([(U, "a"), (A, "b"), (U, "x" * 4097)], "a user message over"),
    ],
)
def test_limits_of_a_conversation(messages, reason):
    assert reason in rows.wildchat(_row(*messages), 0).reason


def test_conversations_exactly_at_the_limits_are_kept():
    messages = [(U, "x" * 4000), (A, "x" * 4000)] * 12 + [(U, "x" * 4000)]
    assert isinstance(rows.wildchat(_row(*messages), 0), Conversation)
    assert isinstance(rows.wildfeedback(_row((U, "x" * 9000), (A, "b" * 4096), (U, "c")), 0), Conversation)


@pytest.mark.parametrize("language", [None, "French", "", 3])
def test_wildchat_rows_in_other_languages_are_dropped(language):
    assert rows.wildchat(_row((U, "a"), (A, "b"), (U, "c")) | {"language": language}, 0) == Dropped("not English")


def test_flagged_rows_are_dropped_only_if_the_settings_ask_for_it():
    row = {"toxic": True, "redacted": None}
    assert rows.flagged(row, drop_toxic=False, drop_redacted=True) is None
    assert rows.flagged(row, drop_toxic=True, drop_redacted=False) == Dropped("toxic")
    assert rows.flagged({"redacted": True}, drop_toxic=True, drop_redacted=True) == Dropped("redacted")


def test_a_conversation_without_an_id_gets_one_from_its_row_number():
    messages = [(U, "a"), (A, "b"), (U, "c")]
    assert rows.wildfeedback(_row(*messages, id=" n "), 7).id == "n"
    assert rows.wildfeedback(_row(*messages, conversation_id="", id=5), 7).id == "5"
    assert rows.wildfeedback(_row(*messages), 7).id == "row-7"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"post": " a ", "article": "b"}, "a\nTL;DR:\n"),
        ({"post": None, "article": "b"}, "b\nTL;DR:\n"),
        ({"post": " ", "article": "b"}, "b\nTL;DR:\n"),
        ({"post": "x" * 1015}, "x" * 1015 + "\nTL;DR:\n"),
        ({"post": "x" * 1016}, Dropped("1,024 characters or more")),
        ({"post": None, "article": None}, Dropped("empty")),
        ({"post": 3}, Dropped("not text")),
        (None, Dropped("no info")),
    ],
)
def test_tldr(info, expected):
    assert rows.tldr({"info": info}) == expected


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        (" a ", "b", "a"),
        ("a", " ", Dropped("empty")),
        (None, "b", Dropped("empty")),
        ("a <extra_id_1>User", "b", Dropped("several turns")),
        ("a <extra_id_x>", "b", "a <extra_id_x>"),
        ("a" * 2048, "b" * 2048, "a" * 2048),
        ("a" * 2049, "b", Dropped("more than 2,048 characters")),
        ("a", "b" * 2049, Dropped("more than 2,048 characters")),
    ],
)
def test_helpsteer(prompt, response, expected):
    assert rows.helpsteer({"prompt": prompt, "response": response}) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud83d"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["role", "from", "content", "value", "conversation", "conversations", "language", "info", "id"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@hypothesis_settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["info", "prompt", "response", "conversation", "conversations", "id"]), JSON))
def test_any_row_becomes_records_or_a_reason(row):
    for result in (rows.tldr(row), rows.helpsteer(row)):
        assert isinstance(result, str | Dropped)
    for result in (rows.wildfeedback(row, 0), rows.wildchat({**row, "language": "English"}, 0)):
        if isinstance(result, Conversation):
            list(interaction_lines(one for one in interactions(result) if isinstance(one, Interaction)))
        else:
            assert isinstance(result, Dropped)


def test_times_and_message_contents_in_all_formats():
    assert time_of(0) == time_of(0.0) == "1970-01-01T00:00:00+00:00"
    assert time_of(1_700_000_000_000) == time_of(1_700_000_000)
    assert time_of("2024-01-01 ") == "2024-01-01"
    assert all(time_of(value) is None for value in (None, "", True, float("nan"), 10**400, 1e300, [], {}))
    thought = {"type": "thinking", "thinking": "hm"}
    assert content_of([thought, {"type": "text", "text": "yes"}])[:2] == ("yes", False)
    assert content_of([thought]).missing == THOUGHTS
    assert content_of([{"type": "tool_use", "input": {}}])[:2] == ("", True)
    assert content_of("half \ud800")[:1] == ("",) and content_of("half \ud800").missing == HALF


def test_messages_without_text_separate_what_is_around_them():
    """Two answers, or two questions, are never joined across them, and what touches them is left out."""
    kept, reasons = made((U, "1"), (A, "2"), (U, ""), (A, "3"), (U, "4"))
    assert (kept, reasons) == ([], [NO_TEXT] * 2)
    kept, reasons = made((U, "1"), (A, ""), (U, "2"), (A, "3"), (U, "4"))
    assert (kept, reasons) == ([], [NO_TEXT] * 2)
    kept, reasons = made((U, "1"), (A, "2"), (A, ""), (A, "3"), (U, "4"))
    assert (kept, reasons) == ([], [NO_TEXT])
    kept, reasons = made((U, "1"), (U, ""), (U, "2"), (A, "3"), (U, "4"))
    assert (kept, reasons) == ([], [NO_TEXT])
    # Beside a text of the same role it separates nothing.
    (one,), reasons = made((U, ""), (U, "1"), (A, "2"), (A, ""), (U, "3"), (U, ""))
    assert (one.prompt[0]["content"], one.completion, one.user_response, reasons) == ("1", "2", "3", [])
    # It no longer matters once it is out of the history.
    later = [((U, A)[index % 2], f"later {index}") for index in range(9)]
    kept, reasons = made((U, "1"), (A, ""), *later)
    assert kept[0].prompt[0]["content"] == "later 0" and len(kept) == 2


def test_moments_are_read_where_there_is_one_reading():
    expected = 1735725605.0
    for value in (
        1735725605, 1735725605000, "1735725605", 1735725605e6, "2025-01-01T10:00:05Z", "2025-01-01 10:00:05 UTC",
        "2025-01-01T10:00:05.000000000Z", "2025-01-01 11:00:05 +0100 CET", {"$date": "2025-01-01T10:00:05Z"},
        {"$date": {"$numberLong": "1735725605000"}}, "Jan 1, 2025, 10:00:05 AM", "January 1, 2025 10:00:05",
        "1 January 2025 10:00:05", "Wed, 01 Jan 2025 10:00:05 GMT", "Wed Jan  1 10:00:05 2025", "01/01/2025 10:00:05",
        "01.01.2025 10:00:05", "2025/01/01 10:00:05", {"seconds": 1735725605},
    ):  # fmt: skip
        assert moment(value) == pytest.approx(expected), value
    assert moment("13/02/2025") == moment("2025-02-13") and moment("02/13/2025") == moment("2025-02-13")
    for value in ("01/02/2025", "yesterday", "", None, True, [], "nan", float("nan"), 10**400, {}, "9" * 500):
        assert moment(value) is None, value
