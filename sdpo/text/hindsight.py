"""The hindsight context: a prompt in which the user's follow-up is shown, by a template."""

from dataclasses import dataclass

from sdpo.text.prompts import HINDSIGHT_REPLY, HINDSIGHT_TEMPLATES, Message

PLACES = ("after", "before", "earlier turn", "system")


@dataclass(frozen=True)
class HindsightTemplate:
    """How a follow-up is shown in hindsight: `text` contains {follow_up} once, `place` is one of PLACES.

    after, before: at the end or at the beginning of the last user message.
    earlier turn: as a user message of its own before the last one, which the assistant has acknowledged.
    system: at the end of the system message, which is added if there is none.
    """

    text: str
    place: str = "after"

    def filled(self, follow_up: str) -> str:
        """Return the text with the follow-up in it."""
        # Not str.format: the follow-up and a custom template may contain braces.
        return self.text.replace("{follow_up}", follow_up)


def template_named(name: str) -> HindsightTemplate:
    """Return a shipped template. Raises KeyError for an unknown name."""
    place, text = HINDSIGHT_TEMPLATES[name]
    return HindsightTemplate(text, place)


HINDSIGHT = template_named("framed")


def with_hindsight(messages: list[Message], follow_up: str, template: HindsightTemplate = HINDSIGHT) -> list[Message]:
    """Return the messages with `follow_up` shown in hindsight.

    Raises ValueError if the last message is not the user's: the text would be attributed to another role.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the last message must be a user message: hindsight is shown in or before it")
    *history, last = messages
    shown = template.filled(follow_up)
    if template.place == "after":
        return [*history, {**last, "content": last["content"] + shown}]
    if template.place == "before":
        return [*history, {**last, "content": shown + last["content"]}]
    if template.place == "earlier turn":
        turn = [{"role": "user", "content": shown}, {"role": "assistant", "content": HINDSIGHT_REPLY}]
        return [*history, *turn, last]
    if history and history[0]["role"] == "system":
        system = {**history[0], "content": history[0]["content"] + "\n\n" + shown}
        return [system, *history[1:], last]
    return [{"role": "system", "content": shown}, *history, last]
