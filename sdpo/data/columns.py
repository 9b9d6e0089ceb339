"""The names of columns in tables of conversations, in other cases and words too. Pure functions."""

import re

CONVERSATION_NAMES = (
    "conversation_id", "conversation", "conv_id", "chat_id", "session_id", "thread_id", "dialogue_id", "dialog_id",
    "convo_id", "conversation_uuid", "conversation_no", "chat", "session", "thread", "ticket_id", "discussion_id",
)  # fmt: skip
ROLE_NAMES = (
    "role", "from", "sender", "author", "speaker", "sender_type", "author_role", "message_role", "role_name",
    "participant", "sent_by", "author_type",
)  # fmt: skip
TEXT_NAMES = (
    "content", "text", "value", "message", "body", "message_text", "message_content", "utterance", "msg",
    "message_body",
)  # fmt: skip
ORDER_NAMES = (
    "order", "index", "turn", "turn_id", "turn_index", "position", "message_index", "sequence", "number", "seq", "step",
    "turn_number", "message_number", "message_order",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "time", "created_at", "create_time", "created", "date", "datetime", "sent_at", "date_time", "ts",
    "created_on", "created_date", "message_time", "sent", "event_time",
)  # fmt: skip
PROMPT_NAMES = ("prompt", "question", "query", "instruction", "user_message", "input", "user_input", "request")
ANSWER_NAMES = (
    "response",
    "answer",
    "completion",
    "output",
    "assistant_message",
    "model_response",
    "reply",
    "bot_response",
)
FOLLOW_UP_NAMES = (
    "user_response", "follow_up", "followup", "feedback", "user_feedback", "next_message", "user_reply", "next_prompt",
)  # fmt: skip
RATING_NAMES = ("feedback", "user_feedback")  # of those, which hold a rating or a text
LIST_NAMES = ("messages", "conversations", "conversation", "chat_messages", "chat", "mapping")
NEEDED = (
    "a conversation id, a role and a text (conversation_id, role, content), or messages, or a prompt, an answer and a "
    "follow-up (prompt, response, user_response)"
)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def column_name(name: str) -> str:
    """Return a column's name in lower case with underscores: conversationId and Conversation ID agree."""
    name = name.strip().strip('"').strip()
    name = name if name.isupper() else _WORD.sub("_", name)
    return re.sub(r"[\s_\-]+", "_", name).strip("_").lower()


def named(row: dict) -> dict:
    """Return the row with its columns' names in one style; if two names become one, the first stays."""
    result: dict = {}
    for name, value in row.items():
        result.setdefault(column_name(name) if isinstance(name, str) else name, value)
    return result


def are_known(names: list[str]) -> bool:
    """Return whether columns of these names hold conversations."""
    columns = set(names)
    lines = all(columns & set(group) for group in (CONVERSATION_NAMES, ROLE_NAMES, TEXT_NAMES))
    pairs = bool(columns & set(PROMPT_NAMES) and columns & set(ANSWER_NAMES))
    return lines or pairs or bool(columns & set(LIST_NAMES) - {"conversation", "chat"})
