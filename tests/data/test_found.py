"""A user's words apart from what a client found for them."""

import pytest

from sdpo.data.found import is_with_found, own_words

BEFORE = (
    "### Task:\nRespond to the user query using the provided context, with citations.\n<context>\n{}\n</context>\n\n"
)


@pytest.mark.parametrize("found", ["A river.", "", "a </context> in it", "### Task:\nanother"])
def test_the_words_after_what_was_found_are_the_users(found):
    text = BEFORE.format(found) + "How long?\n\nIn miles."
    assert own_words(text) == "How long?\n\nIn miles." and is_with_found(text)


@pytest.mark.parametrize(
    "text",
    ["", "How long?", "### Task:\nTranslate: river", "Respond to the user query using the provided context",
     "### Task:\nRespond to the user query using the provided context: there is none", "I saw: " + BEFORE.format("x")],
)  # fmt: skip
def test_other_messages_stay_as_they_are(text):
    assert own_words(text) == text and not is_with_found(text)


def test_a_message_of_nothing_but_what_was_found_stays():
    assert own_words(BEFORE.format("x")) == BEFORE.format("x")
