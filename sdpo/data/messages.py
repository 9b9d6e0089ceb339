"""Reads messages in the formats of the usual tools: roles, contents, tool calls, ratings, names. Pure functions."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sdpo.data.clean import cleaned
from sdpo.data.conversation import HALF, MEDIA, NO_TEXT, REFUSAL, THOUGHTS, Dropped, SourceMessage
from sdpo.text.records import is_encodable

# The names of the roles in the various formats.
ROLES = {
    "user": ("user", "human", "prompter", "request", "customer", "visitor", "client", "end_user", "end-user", "enduser",
             "question", "humanmessage", "usermessage"),
    "assistant": ("assistant", "gpt", "chatgpt", "claude", "model", "ai", "bot", "chatbot", "llm", "response", "agent",
                  "gemini", "grok", "deepseek", "copilot", "answer", "aimessage", "aimessagechunk", "assistantmessage"),
    "system": ("system", "developer", "systemmessage"),
    "tool": ("tool", "function", "observation", "function_call", "function_response", "tool_call", "tool_response",
             "tool_result", "ipython", "toolmessage", "functionmessage"),
}  # fmt: skip
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
SYSTEM_NAMES = (
    "system", "system_prompt", "systemPrompt", "system_message", "systemMessage", "instructions", "promptPrefix",
    "system_instruction", "systemInstruction",
)  # fmt: skip

# Where the formats say how an answer ended, and what they say of one that did not come to its end.
_ENDS = ("finish_reason", "finishReason", "stop_reason", "stopReason", "done_reason", "status", "type")
_UNFINISHED = {
    "length", "max_tokens", "max_output_tokens", "incomplete", "interrupted", "finished_partial_completion",
    "userstopped", "maxpredictedtokensreached", "contextlengthreached",
}  # fmt: skip
_CUT = {"finished": "false", "unfinished": "true", "partial": "true"}  # in a table as text

_TEXT_PARTS = {None, "text", "input_text", "output_text", "voice_note", "audio_transcription", "markdown", "plaintext"}
_THOUGHT_PARTS = {
    "thinking", "redacted_thinking", "reasoning", "reasoning_content", "thought", "think", "flag", "token_budget",
    "summary_text", "reasoning_text",
}  # fmt: skip
_BESIDE = ("step-start", "source", "data-")  # parts that are no content
_TOOL_WORDS = ("tool", "function", "_call", "mcp_", "code_execution")
_UP = {"thumbs_up", "thumbsup", "up", "like", "liked", "good", "positive", "upvote", "👍", "true", "yes"}
_DOWN = {"thumbs_down", "thumbsdown", "down", "dislike", "disliked", "bad", "negative", "downvote", "👎", "false", "no"}


class Content(NamedTuple):
    """The text of a content, whether it holds tool calls, a picture or file, and why there is no text."""

    text: str
    tools: bool = False
    media: bool = False
    missing: str = ""


def role_of(name: Any) -> str | None:
    """Return the role that a format's name stands for, or None for an unknown name."""
    if isinstance(name, dict):
        name = name.get("role") or name.get("type") or name.get("name")
    return _ROLE_OF.get(name.strip().lower()) if isinstance(name, str) else None


def content_of(content: Any) -> Content | Dropped:
    """Return a message's content, which is a string or a list of strings and parts with a type."""
    if content is None:
        return Content("")
    if isinstance(content, str):
        return _checked(Content(content))
    if isinstance(content, dict) and (isinstance(content.get("type"), str) or isinstance(content.get("text"), str)):
        content = [content]
    if not isinstance(content, list):
        return Dropped("a message that is not text")
    texts, tools, media, refused, thoughts, between = [], False, False, False, False, "\n"
    for part in content:
        text = part if isinstance(part, str) else _part_text(part)
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(text, str):
            texts += [text] if text else []
            if isinstance(part, dict) and part.get("citations"):
                between = ""  # blocks are then split within sentences, where a source begins or ends
        elif not isinstance(part, dict):
            media = media or part is not None
        elif isinstance(kind, str) and any(word in kind for word in _TOOL_WORDS):
            tools = True
        elif isinstance(kind, str) and kind in _THOUGHT_PARTS:
            thoughts = True
        elif kind == "refusal":
            refused = True
        elif kind not in _TEXT_PARTS if isinstance(kind, str | None) else True:
            media = True
    missing = MEDIA if media else REFUSAL if refused else THOUGHTS if thoughts else ""
    return _checked(Content(between.join(texts), tools, media, missing))


def _part_text(part: Any) -> str | None:
    """Return the text of a part that was shown or pasted, or None."""
    if not isinstance(part, dict):
        return None
    kind = part.get("type")
    if isinstance(kind, str | None) and kind in _TEXT_PARTS:
        text = part.get("text")
        text = text.get("value") if isinstance(text, dict) else text
        return (
            text if isinstance(text, str) else (part.get("content") if isinstance(part.get("content"), str) else None)
        )
    source = part.get("source")
    if kind == "document" and isinstance(source, dict) and source.get("type") == "text":
        return source.get("data") if isinstance(source.get("data"), str) else None
    return None


def _checked(content: Content) -> Content:
    if not is_encodable(content.text):
        return content._replace(text="", missing=HALF)
    text = content.text.strip()
    return content._replace(text=text, missing="" if text else content.missing)


def message(role: str, content: Content, **fields: Any) -> list[SourceMessage]:
    """Return the message, with a tool message after it (before a user's) if a tool was called.

    An assistant's text is cleaned of thoughts and marks. `fields` are more fields of the message.
    """
    text, tools, missing = content.text, content.tools, content.missing
    if role == "assistant" and text:
        text, used, missing = cleaned(text)
        tools = tools or used
    if role == "tool":
        return [SourceMessage("tool", "")]
    if not text and role == "user" and tools:  # the results of tools, in the place of a user's message
        return [SourceMessage("tool", "")]
    beside = bool(text) and content.media
    one = SourceMessage(role, text, "" if text else missing or NO_TEXT, beside=beside, **fields)
    if not tools:
        return [one]
    tool = SourceMessage("tool", "")
    return [tool, one] if role == "user" else [one, tool] if text else [tool]


def read_messages(messages: Any) -> list[SourceMessage] | Dropped:
    """Return the messages of a list; each may be in any of the usual formats."""
    if not isinstance(messages, list) or not messages:
        return Dropped("no messages")
    results: list[SourceMessage] = []
    for one in messages:
        read = read_message(one)
        if isinstance(read, Dropped):
            return read
        results += read
    return results


def read_message(given: Any) -> list[SourceMessage] | Dropped:
    """Return the message that an object is, and the tool messages that its tool calls amount to."""
    if not isinstance(given, dict):
        return Dropped("a message that is not an object")
    if isinstance(given.get("kwargs"), dict) and isinstance(given.get("id"), list) and given["id"]:
        given = {"role": given["id"][-1], **given["kwargs"]}  # as LangChain serialises it
    elif isinstance(given.get("data"), dict) and role_of(given.get("type")):
        given = {"role": given["type"], **given["data"]}
    names = (given.get(name) for name in ("role", "from", "author", "sender", "type"))
    role = role_of(next((name for name in names if name), None))
    if role is None:
        return Dropped("a message of unknown role")
    parts = given.get("parts")
    if isinstance(parts, list) and given.get("content") is None:
        content = content_of(typed_parts(parts))
    else:
        values = (given.get(name) for name in ("content", "value", "text"))
        content = content_of(next((value for value in values if value is not None), None))
    if isinstance(content, Dropped):
        return content
    extra = given.get("additional_kwargs")
    calls = [given.get(name) for name in ("tool_calls", "function_call", "toolInvocations")]
    calls += [extra.get("tool_calls"), extra.get("function_call")] if isinstance(extra, dict) else []
    if not content.text and not content.missing and given.get("refusal"):
        content = content._replace(missing=REFUSAL)
    elif not content.text and not content.missing and (given.get("reasoning_content") or given.get("reasoning")):
        content = content._replace(missing=THOUGHTS)
    leave_out = "an answer of weight 0" if role == "assistant" and given.get("weight") == 0 else ""
    content = content._replace(tools=content.tools or any(bool(call) for call in calls))
    finished = role != "assistant" or is_finished(given)
    return message(role, content, leave_out=leave_out, rating=rating_in(given), finished=finished)


def is_finished(given: dict) -> bool:
    """Return whether an answer came to its own end, by what an object says of it: most formats say nothing."""
    places = [given, given.get("response_metadata"), given.get("finish_details")]
    ends = [fields.get(name) for fields in places if isinstance(fields, dict) for name in _ENDS]
    flags = {name: str(given[name]).lower() for name in _CUT if isinstance(given.get(name), bool | str)}
    return all(_CUT[name] != flag for name, flag in flags.items()) and not any(
        isinstance(end, str) and end.lower() in _UNFINISHED for end in ends
    )


def typed_parts(parts: list) -> list:
    """Return parts of Gemini's interface or of Vercel's AI SDK as parts with a type, without steps and sources."""
    results: list[dict] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            results.append({"type": "text", "text": part})
        elif not isinstance(part, dict):
            results.append({"type": "unknown"})
        elif isinstance(kind, str):
            results += [] if kind.startswith(_BESIDE) else [part]
        elif part.get("thought") is True or part.get("isThought"):
            results.append({"type": "thought"})
        elif isinstance(part.get("text"), str):
            results.append({"type": "text", "text": part["text"]})
        elif any(name in part for name in ("functionCall", "functionResponse", "function_call", "function_response",
                                           "executableCode", "codeExecutionResult")):  # fmt: skip
            results.append({"type": "function_call"})
        else:
            results.append({"type": "file"})
    return results


def system_text(row: dict) -> list[SourceMessage]:
    """Return the system message that stands beside a row's messages, if there is one."""
    for name in SYSTEM_NAMES:
        value = row.get(name)
        value = value.get("parts", value.get("content")) if isinstance(value, dict) else value
        content = content_of(value)
        if isinstance(content, Content) and content.text:
            return [SourceMessage("system", content.text)]
    return []


# Fields of a row


def first(row: dict, names: Iterable[str]) -> Any:
    """Return the first of the named fields that is not empty."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def id_of(row: dict, *names: str) -> str | None:
    """Return the first of the named fields that is usable as an id, or None; 5.0 and 5 are the same id."""
    for name in names:
        value = row.get(name)
        value = value.get("$oid") if isinstance(value, dict) else value
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e18:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) <= 2**64:
                return str(value)
        elif isinstance(value, str) and value.strip() and is_encodable(value):
            return value.strip()
    return None


def nonempty_text(value: Any) -> str | None:
    """Return a string that is not blank, stripped, or None for everything else."""
    return value.strip() if isinstance(value, str) and value.strip() and is_encodable(value) else None


def rating_in(row: Any) -> float | None:
    """Return the user's rating in a row or message: in `rating`, `feedback`, `annotation`, `thumbs` or `score`."""
    if not isinstance(row, dict):
        return None
    for name in ("rating", "feedback", "annotation", "thumbs", "user_feedback", "feedback_rating", "vote"):
        value = row.get(name)
        if isinstance(value, dict):
            value = next((value[key] for key in ("rating", "type", "score", "value") if key in value), None)
        rating = rating_of(value)
        if rating is not None:
            return rating
    return None


def rating_of(value: Any) -> float | None:
    """Return a rating as a number: 1 for thumbs up, -1 for thumbs down, other numbers as they are; None for none."""
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e6 else None
    if not isinstance(value, str):
        return None
    word = value.strip().lower().replace(" ", "_").replace("-", "_").removeprefix("feedback_")
    if word in _UP or word in _DOWN:
        return 1.0 if word in _UP else -1.0
    try:
        number = float(word)
    except ValueError:
        return None
    return number if abs(number) < 1e6 else None
