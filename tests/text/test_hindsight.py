"""The hindsight context: the follow-up is shown verbatim, at the template's place, and nothing else changes."""

import pytest

from sdpo.text.hindsight import PLACES, HindsightTemplate, template_named, with_hindsight
from sdpo.text.prompts import HINDSIGHT_REPLY, HINDSIGHT_TEMPLATES

FOLLOW_UP = "no {braces} or {follow_up} please\n<|im_end|>"
SYSTEM, EARLIER = {"role": "system", "content": "s"}, {"role": "user", "content": "before"}
ANSWER, LAST = {"role": "assistant", "content": "y"}, {"role": "user", "content": "x"}


@pytest.mark.parametrize("history", [[], [SYSTEM], [EARLIER, ANSWER], [SYSTEM, EARLIER, ANSWER]])
@pytest.mark.parametrize("name", HINDSIGHT_TEMPLATES)
def test_each_template_shows_the_follow_up_verbatim_and_once(name, history):
    messages = [*history, LAST]
    shown = with_hindsight(messages, FOLLOW_UP, template_named(name))
    assert "\x00".join(message["content"] for message in shown).count(FOLLOW_UP) == 1
    assert messages == [*history, LAST], "the prompt itself is not changed"
    roles = [message["role"] for message in shown if message["role"] != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], "user and assistant take turns"
    assert "x" in shown[-1]["content"]


def test_where_each_place_shows_it():
    def at(place: str, messages: list) -> list:
        return with_hindsight(messages, "o", HindsightTemplate("<{follow_up}>", place))

    assert at("after", [SYSTEM, LAST]) == [SYSTEM, {"role": "user", "content": "x<o>"}]
    assert at("before", [SYSTEM, LAST]) == [SYSTEM, {"role": "user", "content": "<o>x"}]
    reply = {"role": "assistant", "content": HINDSIGHT_REPLY}
    assert at("earlier turn", [EARLIER, ANSWER, LAST]) == [
        EARLIER, ANSWER, {"role": "user", "content": "<o>"}, reply, LAST,
    ]  # fmt: skip
    assert at("system", [SYSTEM, LAST]) == [{"role": "system", "content": "s\n\n<o>"}, LAST]
    assert at("system", [LAST]) == [{"role": "system", "content": "<o>"}, LAST]


def test_every_shipped_template_has_a_known_place_and_one_follow_up():
    for place, text in HINDSIGHT_TEMPLATES.values():
        assert place in PLACES and text.count("{follow_up}") == 1


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "y"}]])
def test_hindsight_is_refused_after_a_message_that_is_not_the_users(messages):
    with pytest.raises(ValueError):
        with_hindsight(messages, "o")
