"""What an assistant's text holds beside its answer: thoughts, tool calls, placeholders, citation marks. Pure functions.

Each client and model writes them in its own way; what was shown to the user stays.
"""

import json
import re
from typing import NamedTuple

from sdpo.data.conversation import FAILED, PLACEHOLDER, THOUGHTS
from sdpo.llm.thoughts import MARKS


class Cleaned(NamedTuple):
    """An answer without what was not part of it; if nothing is left, `missing` says why."""

    text: str
    uses_tools: bool = False
    missing: str = ""


# The marks are those in the replies of simulated users. A log is read with more care: its answers may be about marks.
_PAIRS = [tuple(re.compile(mark, re.IGNORECASE) for mark in pair) for pair in MARKS]
_END = "|".join(end for _, end in MARKS)
_CLOSING = re.compile(rf"(?:^[ \t]*(?:{_END})|(?:{_END})[ \t]*$)", re.IGNORECASE | re.MULTILINE)
_DETAILS = re.compile(r"<details\b(?P<attributes>[^<>]*)>(?P<body>.*?)</details>", re.DOTALL | re.IGNORECASE)
_KIND = re.compile(r"""type\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
_THOUGHT_SUMMARY = re.compile(
    r"\s*<summary>\W*(?:thought|thinking|thoughts|reasoning|reasoned|chain of thought)\b", re.IGNORECASE
)
_FENCE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)(?P<rest>[^<]*)(?:<\|[^|]*\|>\s*\w*\s*)??<\|message\|>"
    r"(?P<text>.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)
_SPECIAL = re.compile(
    r"<\|(?:START_RESPONSE|END_RESPONSE|begin_of_solution|end_of_solution|return|end|im_end|eot_id)\|>\s*\Z"
    r"|\A\s*<\|(?:START_RESPONSE|begin_of_solution)\|>"
)

# What clients write in the place of an answer or a part of one that they cannot show.
_PLACEHOLDERS = re.compile(
    r"(?:^|\n)[ \t]*(?:```[\w ]*\n)?[ \t]*(?:This block is not supported on your current device yet\.?"
    r"|Viewing artifacts created via the Analysis Tool web feature preview isn[’']t yet supported on mobile\.?)"
    r"[ \t]*(?:\n[ \t]*```)?[ \t]*(?=\n|\Z)",
    re.IGNORECASE,
)
_FAILURES = re.compile(
    r"(?:The server is busy\. Please try again later\.?|Something went wrong[^\n]{0,160}"
    r"|There was an error generating a response\.?|Network error\.?|You stopped this response\.?"
    r"|\[?Request interrupted by user(?: for tool use)?\]?|An error occurred\.[^\n]{0,200}"
    r"|API Error:?[^\n]{0,300}|\(?No (?:response|content)\)?|\[DONE\])",
    re.IGNORECASE,
)
_ARTIFACT = re.compile(r"<antArtifact\b[^>]*>\n?|</antArtifact>", re.IGNORECASE)

# Citations and other marks of web interfaces.
_PRIVATE = re.compile(r"\ue200(?P<kind>[^\ue200-\ue206]*)(?P<fields>[^\ue200\ue201]*)\ue201")
_CITATIONS = re.compile(
    r"(?P<space>[ \t]*)(?:"
    r"\ue200[^\ue200\ue201]*\ue201"
    r"|:contentReference\[oaicite:[^\]]*\](?:\{[^}]*\})?"
    r"|\[?oaicite:\d+\]?(?:\{index=\d+\})?"
    r"|【\d+(?::\d+)?†[^】]*】"
    r"|\b(?:file)?cite(?:turn\d+(?:search|view|news|file|image|fetch|academia|forecast|finance|sports|product|reddit)\d+)+"
    r"|\[citation:\s?\d+\]|\[cite:\s?[\d,\s]+\]|\[cite_start\]"
    r"|<grok:render\b.*?</grok:render>|<grok:\w+\b[^>]*/>"
    r")(?P<next>\w?)",
    re.DOTALL,
)
_CITE_TAGS = re.compile(r"</?(?:antml:)?cite\b[^>]*>|\[/?cite_end\]", re.IGNORECASE)
_REST = re.compile(r"[\ue200-\ue206]")


def cleaned(text: str) -> Cleaned:
    """Return an assistant's text as the answer that was shown."""
    if not text.strip():
        return Cleaned("")
    tools = False
    if "<|channel|>" in text:
        text, tools = _final_channel(text)
    text, detail_tools = _without_details(text)
    tools = tools or detail_tools
    text = _without_thoughts(text).strip()
    if not text:
        return Cleaned("", tools, THOUGHTS)
    text = _PLACEHOLDERS.sub("\n", text).strip()
    if not text:
        return Cleaned("", tools, PLACEHOLDER)
    if _FAILURES.fullmatch(text):
        return Cleaned("", tools, FAILED)
    return Cleaned(_without_marks(_ARTIFACT.sub("", text)).strip(), tools, "")


def _final_channel(text: str) -> tuple[str, bool]:
    """Return the text of the last final channel, and whether a channel called a tool."""
    channels = list(_CHANNEL.finditer(text))
    tools = any("to=" in channel["rest"] for channel in channels) or "<|call|>" in text
    finals = [channel["text"] for channel in channels if channel["name"] == "final"]
    if channels and not finals:
        before = text[: channels[0].start()].replace("<|start|>assistant", "")
        return (before if before.strip() else ""), tools
    return (finals[-1] if finals else text), tools


def _without_details(text: str) -> tuple[str, bool]:
    """Return the text without the folded blocks of thoughts and tool calls, and whether there were tool calls."""
    tools = False

    def replaced(match: re.Match[str]) -> str:
        nonlocal tools
        kind = _KIND.search(match["attributes"])
        name = kind[1].lower() if kind else ""
        if name in ("tool_calls", "code_interpreter"):
            tools = True
            return ""
        return "" if name == "reasoning" or _THOUGHT_SUMMARY.match(match["body"]) else match[0]

    end = text.lower().rfind("</details>") + len("</details>")
    if end < len("</details>"):
        return text, tools
    # Without what follows the last end, where each start would be searched for one up to the text's end.
    return _DETAILS.sub(replaced, text[:end]) + text[end:], tools


def _without_thoughts(text: str) -> str:
    """Return the text without thoughts: in marks, before an end mark that has no start, after a start without end.

    Marks in code, and a start in the middle of a line without its end, are what the answer talks about.
    """
    text = _leading_thoughts(text)
    parts = _FENCE.split(text)  # every second part is code
    for index in range(0, len(parts), 2):
        for start, end in _PAIRS:
            parts[index] = _pairs_removed(parts[index], start, end)
    text = "".join(parts)
    outside = _FENCE.sub(lambda code: " " * len(code[0]), text)
    closings = list(_CLOSING.finditer(outside))
    text = text[closings[-1].end() :] if closings else text
    return _SPECIAL.sub("", text)


def _leading_thoughts(text: str) -> str:
    """Return the text without the thoughts it begins with, which may themselves hold code; all of it if unclosed."""
    while True:
        for start, end in _PAIRS:
            opened = start.match(text, len(text) - len(text.lstrip()))
            if opened is None:
                continue
            closed = end.search(text, opened.end())
            text = text[closed.end() :] if closed else ""
            break
        else:
            return text


def _pairs_removed(text: str, start: re.Pattern[str], end: re.Pattern[str]) -> str:
    position = 0
    while opened := start.search(text, position):
        closed = end.search(text, opened.end())
        if closed:
            text = text[: opened.start()] + text[closed.end() :]
            position = opened.start()
        elif not text[text.rfind("\n", 0, opened.start()) + 1 : opened.start()].strip():
            return text[: opened.start()]  # it was cut off while thinking
        else:
            position = opened.end()
    return text


def _without_marks(text: str) -> str:
    """Return the text with the names that entity marks show, and without citations."""
    if "\ue200" in text:
        text = _PRIVATE.sub(_shown, text)
    text = _CITATIONS.sub(lambda match: (match["space"] + match["next"]) if match["next"] else "", text)
    return _REST.sub("", _CITE_TAGS.sub("", text))


def _shown(match: re.Match[str]) -> str:
    """Return what a mark of ChatGPT's interface shows: an entity's name or a link's label; citations stay marks."""
    fields = [field for field in match["fields"].split("\ue202") if field]
    kind = match["kind"]
    if kind == "url" and fields:
        return fields[0]
    if kind in ("entity", "entity_metadata", "person", "place", "product_entity") and fields:
        try:
            value = json.loads(fields[0])
        except (ValueError, RecursionError):
            return fields[0] if "[" not in fields[0] else match[0]
        names = [part for part in value if isinstance(part, str)] if isinstance(value, list) else []
        return names[1] if len(names) > 1 else (names[0] if names else match[0])
    return match[0]
