"""What a user's reply says, and whether the user is satisfied: as the reply states, or as its words suggest.

A user who is asked to state it replies in one of two forms. A server that supports structured output enforces the JSON
of USER_REPLY_SCHEMA; any other model is asked to begin with "Satisfied: yes" or "Satisfied: no". A last line of this
form is read too. The rest is the message, which alone is shown in hindsight.
"""

import json
import re
from contextlib import suppress
from typing import Any

_YES, _NO = {"yes", "true"}, {"no", "false"}
# What follows at once belongs to the statement, as a dash does; signs in front of the message are the message's.
_MARK = (
    r"[\s\"'*_`#>(\[-]*satisfied\b[\s\"'*_`:?=-]*(yes|no|true|false)\b"
    r"[\"'*_`.,:;!)\]]*[^\S\n]*(?:[–—-]+(?!\S))?"
)
_FIRST_LINE = re.compile(_MARK, re.IGNORECASE)
_LAST_LINE = re.compile(rf"{_MARK}[^\S\n]*", re.IGNORECASE)
_RULES_ABOVE = re.compile(r"\A(?:[ \t\r*_-]*\n)+")
_RULE = " \t\r\"'*_`#>([-"  # a line of these only is a part of the statement below it
_UNREAD_LINE = re.compile(r"\A\W*satisfied\W*:[^\n]{0,40}(?:\n|\Z)", re.IGNORECASE)  # "Satisfied: partly"

_OBJECT = re.compile(r"\{\s*[\"'](?:satisfied|message)[\"']\s*:")
# Of an object that was cut off before its first colon, or of the fence around it, nothing can be read.
_CUT_BEGIN = re.compile(r"`{1,2}|(?:```\w*\s*)?(?:\{\s*(?:[\"']\w*[\"']?\s*)?)?")
_CUT_MESSAGE = re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)
_CUT_STATEMENT = re.compile(r'"satisfied"\s*:\s*"?(true|false|yes|no)\b', re.IGNORECASE)
_DECODER = json.JSONDecoder(strict=False)  # line breaks in a string are accepted


def read_reply(text: str) -> tuple[str, bool | None]:
    """Return the message of a reply, and whether its user states to be satisfied; None if that cannot be read.

    The message is empty if the reply is JSON without one. Of JSON that was cut off the message is read as far as it
    goes.
    """
    text = text.strip()
    found = _OBJECT.search(text)
    if found is None:
        if (fields := _parsed(re.sub(r"\A`+\w*\s*", "", text))) is not None:
            return _read_fields(fields)  # other fields than those that were asked for
        return ("", None) if _CUT_BEGIN.fullmatch(text) else _read_lines(text)
    text = text[found.start() :]
    fields = _parsed(text)
    return _read_fields(_cut_fields(text) if fields is None else fields)


def reads_as_satisfied(message: str) -> bool | None:
    """Return whether a message in English is praise (True) or a wish for a change (False); None if it is neither.

    A rough reading by words. A request, a "but", "too long" or "not happy" make it a wish, whatever else it says. If
    there is none of these, a word of praise makes it praise, and otherwise a negation or "more" makes it a wish.
    """
    text = " ".join(message.lower().replace("’", "'").split())
    rest = _PRAISE_IDIOM.sub(" praised ", text)
    if _REQUEST.search(rest):
        return False
    if _PRAISE.search(rest):
        return True
    return False if _NEGATION.search(rest) else None


def _parsed(text: str) -> dict | None:
    """Return the JSON object at the beginning of a text, None if there is none."""
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _cut_fields(text: str) -> dict[str, Any]:
    """Return the fields of JSON that is malformed or was cut off, as far as they can be read."""
    fields: dict[str, Any] = {}
    if statement := _CUT_STATEMENT.search(text):
        fields["satisfied"] = statement[1]
    if message := _CUT_MESSAGE.search(text):
        for text in (message[1], message[1].rpartition("\\")[0]):  # it may be cut off within an escape
            with suppress(ValueError):
                fields.setdefault("message", _DECODER.decode(f'"{text}"'))
    return fields


def _read_fields(fields: dict[str, Any]) -> tuple[str, bool | None]:
    message = fields.get("message")
    # Half of a surrogate pair, of an escape that was cut off, cannot be written to a file.
    text = message.encode("utf-8", "ignore").decode("utf-8").strip() if isinstance(message, str) else ""
    # A model may put the whole reply into the message once more.
    text, in_message = read_reply(text) if text.startswith(("{", "`")) else _read_lines(text)
    return text, _agreed({_yes_or_no(str(fields.get("satisfied"))), in_message})


def _read_lines(text: str) -> tuple[str, bool | None]:
    """Return a text without the lines at its begin and end that state it, and what they agree on."""
    stated = set[bool | None]()
    while match := _FIRST_LINE.match(text):
        text = _RULES_ABOVE.sub("", text[match.end() :].strip()).strip()
        stated.add(_yes_or_no(match[1]))
    lines = text.split("\n")
    while lines and (match := _LAST_LINE.fullmatch(lines[-1])):
        lines.pop()
        while lines and not lines[-1].strip(_RULE):
            lines.pop()
        stated.add(_yes_or_no(match[1]))
    text = "\n".join(lines)
    return (text if stated else _UNREAD_LINE.sub("", text)).strip(), _agreed(stated)


def _agreed(stated: set[bool | None]) -> bool | None:
    """Return what is stated, None if nothing is, or both."""
    known = stated - {None}
    return known.pop() if len(known) == 1 else None


def _yes_or_no(word: str) -> bool | None:
    word = word.strip().lower()
    return True if word in _YES else False if word in _NO else None


_GLAD = (
    r"(?:happy|satisfied|pleased|content|glad|impressed|like|love|enjoy|work|fit|suit|good|great|helpful|right|perfect"
    r"|fan)"
)
# Praise whose words would otherwise count as a request or a negation.
_PRAISE_IDIOM = re.compile(
    r"\b(?:what|how|as|way|everything|all) i (?:was (?:after|hoping for|looking for)|asked for|want(?:ed)?|need(?:ed)?"
    r"|like(?:d)?|hoped for|prefer(?:red)?)\b"
    r"|\b(?:nothing|don't|do not|no need|wouldn't|would not|needn't|couldn't|could not)\b[^.!?]{0,20}"
    r"\b(?:to change|change (?:a|any)\w*|have (?:put|said|done|asked)|be better|be happier|complain\w*)\b"
    r"|\b(?:please )?(?:keep (?:(?:it|this|that) (?:up|like|so|this|that)|going|doing)|more (?:like|of) th(?:is|at)"
    r"|stay like th(?:is|at))\b"
    r"|\bno (?:complaints?|changes?|notes)\b"
)
_REQUEST = re.compile(
    r"\bplease\b|\b(?:could|can|would|will) you\b|\b(?:can|could|may) i (?:have|get)\b"
    r"|\bi(?:'d| would) (?:like|prefer|rather|be (?:happier|glad)|love|appreciate|have \w+ed)\b"
    r"|\bi (?:really |just |only |had )?(?:want|wish|need|prefer|miss|asked|hoped|expected|was hoping)\b"
    r"|\btoo (?!\bbad\b)\w+|\b(?:instead|next time|rather than|unfortunately|should (?:be|have|use|not)|shouldn't"
    r"|could (?:be|have)|needs? (?:to|more|a|an)|would help)\b"
    rf"|\b(?:not|isn't|wasn't|don't|didn't|doesn't|can't|never|hardly) (?:\w+ ){{0,3}}{_GLAD}\b"
    r"|\bbut\b|\bhowever\b|\bexcept\b|\b(?:bothers?|annoy\w*|distract\w*|dislike|hate|disappoint\w*|dull|flat)\b"
    r"|(?:^|[.!?,;:–—-] )(?:just |and |so |then )?"
    r"(?:add|use|make|give|put|cut|drop|remove|skip|avoid|leave|stop|write|turn|say|tell|get rid|keep|shorten|trim"
    r"|rewrite|rephrase|end|start|begin|try|include|format|strip|break|list|take|liven|be|don't|do not"
    r"|(?:answer|reply|respond)(?= (?:me|in|with|again|only)\b))\b"
)
_PRAISE = re.compile(
    r"\bpraised\b|\b(?:thanks|thank you|perfect(?:ly)?|great|wonderful(?:ly)?|excellent|brilliant|fantastic|lovely"
    r"|nice(?:ly)?"
    r"|good|exactly|spot on|just right|happy|pleased|content|satisfied|glad|delighted|enjoyed|appreciate|helpful|ideal"
    r"|awesome|amazing|fits|suits|works (?:well )?for me|well done)\b"
    r"|\b(?:love|like|liked|loved) (?:it|that|this|how|the (?:answer|way|style|response|reply))\b"
)
_NEGATION = re.compile(
    r"\b(?:no|not|without|less|fewer|more|why|where|stop|drop|enough|again|lacks?|missing|shorter|longer|briefer)\b|n't\b"
)
