"""What a model thinks before it replies: taken out of every reply here, for simulated users and judges alike.

A server leaves a model's thoughts in its reply unless it is asked not to, in marks that depend on the model. Thoughts
that the token limit cut off have no end mark; where the chat template wrote the begin mark, only the end mark is there.
"""

import re

_FLAGS = re.IGNORECASE | re.DOTALL
_NAME = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|inner_monologue|antThinking)"
_TOKEN = r"(?:think(?:ing)?|thoughts?|reasoning)"
# A mark after a single backtick is quoted, not meant; after three, code has ended.
_UNQUOTED = r"(?<!(?<!`)`)"
# Begin and end mark of each form of thoughts in a text.
MARKS = [
    (rf"{_UNQUOTED}<{_NAME}(?:\s[^<>]*)?>", rf"{_UNQUOTED}</{_NAME}\s*>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (
        rf"<[|｜](?:(?:start|begin)_(?:of_)?{_TOKEN}|{_TOKEN}(?:_start|_begin)?)[|｜]>",
        rf"<[|｜](?:end_(?:of_)?{_TOKEN}|{_TOKEN}_end|/{_TOKEN})[|｜]>",
    ),
    (r"<\|channel>\s*thought\b", r"<channel\|>"),
    (r"<unused94>(?:thought\b)?", r"<unused95>"),
]
# The forms that a server or a client writes for thoughts that a model has already marked.
_SHOWN = [
    (r"<details\s[^<>]*type=[\"']?reasoning[^<>]*>", r"</details>"),
    (r"\A\s*Thinking\.\.\.\s*\n", r"\.\.\.done thinking\."),
]
_FORMS = [re.compile(f"(?P<begin>{begin})|(?P<end>{end})", _FLAGS) for begin, end in [*MARKS, *_SHOWN]]

# Replies in channels, as gpt-oss writes them; the other patterns are for a server that removed the control tokens.
_CHANNEL = re.compile(
    r"<\|channel\|>\s*+(\w++)[^<]*+(?:<\|constrain\|>[^<]*+)?<\|message\|>"
    r"(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    _FLAGS,
)
_BARE_FINAL = re.compile(r"\A\s*(?:analysis|commentary).*assistant\s*final(?P<final>.*)\Z", re.DOTALL)
_BARE_ANALYSIS = re.compile(r"\A\s*analysis(?=[A-Z\"'])")

# What some models put around the reply that follows their thoughts.
_WRAPPED = re.compile(
    r"<(answer|response|output|solution)>(?P<tagged>.*?)(?:</\1>\s*|\Z)"
    r"|<\|(?:begin_of_solution|START_RESPONSE)\|>(?P<token>.*?)(?:<\|(?:end_of_solution|END_RESPONSE)\|>\s*|\Z)",
    _FLAGS,
)


def without_thoughts(text: str) -> str:
    """Return a reply without its thoughts; empty if it is nothing else. A reply without thoughts is not changed."""
    reply = _without_channels(text)
    for form in _FORMS:
        reply = _without_form(reply, form)
    if reply == text:
        return text
    text = reply.strip()
    if wrapped := _WRAPPED.fullmatch(text):
        text = (wrapped["tagged"] or wrapped["token"] or "").strip()
    return without_thoughts(text)


def has_thoughts(text: str) -> bool:
    """Return whether a reply contains thoughts."""
    return without_thoughts(text) != text


def _without_form(text: str, form: re.Pattern[str]) -> str:
    """Return the text without thoughts of one form; what stands before a lone end mark is a thought too."""
    kept: list[str] = []
    start: int | None = 0  # of the text to keep; None within a thought
    inner = 0  # begin marks within the last thought: it may end with its first end mark, or have one for each
    for mark in form.finditer(text):
        if mark["end"]:
            if start is not None and not inner:
                kept.clear()
            inner = max(0, inner - (start is not None))
            start = mark.end()
        elif start is None:
            inner += 1
        else:
            kept.append(text[start : mark.start()])
            start, inner = None, 0
    if start == 0:
        return text
    if start is not None:
        kept.append(text[start:])
    return " ".join(part for part in kept if part.strip())


def _without_channels(text: str) -> str:
    """Return the final channel of a reply in channels, any other text unchanged."""
    if "<|channel|>" in text:
        return "".join(body for name, body in _CHANNEL.findall(text) if name.lower() == "final")
    if found := _BARE_FINAL.match(text):
        return found["final"]
    return "" if _BARE_ANALYSIS.match(text) else text
