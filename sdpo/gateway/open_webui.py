"""Open WebUI's requests: its own questions about a chat, chats that are to be kept nowhere, users, ratings."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from sdpo.data.found import is_with_found
from sdpo.gateway.history import text_of

PREFIX = "x-openwebui-"
CHAT, USER, EMAIL = "x-openwebui-chat-id", "x-openwebui-user-id", "x-openwebui-user-email"
MESSAGE, TASK, TOKEN = "x-openwebui-message-id", "x-openwebui-task", "x-openwebui-user-jwt"
_TEMPORARY = ("temporary:", "local:")  # how the ids of chats begin that are to be kept nowhere
# How its own prompts begin: for titles, tags, searches, follow-ups and summaries; for an emoji; to merge answers.
_ABOUT, _EMOJI, _MERGE = (
    "### Task:",
    "Your task is to reflect the speaker",
    "You have been provided with a set of responses",
)
_SUBJECTS = ("<chat_history>", "### Messages Being Compacted:")  # in those about a chat; no person writes these
_MEMORY, _TOOLS = "You are Open WebUI's private memory reviewer", "Available Tools:"  # as system messages
_QUERY = ("Query:", "History:\n")  # how the message after that about the tools begins


def is_temporary(headers: Mapping[str, str]) -> bool:
    """Return whether a request is of a chat that is to be kept nowhere."""
    return headers.get(CHAT, "").startswith(_TEMPORARY)


def is_task(headers: Mapping[str, str], body: Mapping[str, Any]) -> bool:
    """Return whether a request is a question of the program's own: its header says so, else the prompt does.

    Without its headers, or if the one for tasks is there and empty, only prompts count that hold a chat as it quotes
    one: a person may well begin with a heading.
    """
    if headers.get(TASK):
        return True
    given = body.get("messages")
    messages = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    texts = [text_of(message.get("content")) for message in messages]
    if [message.get("role") for message in messages] == ["system", "user"]:
        return texts[0].startswith(_MEMORY) or (texts[0].startswith(_TOOLS) and texts[1].startswith(_QUERY))
    if [message.get("role") for message in messages] != ["user"]:
        return False
    if texts[0].startswith((_EMOJI, _MERGE)):
        return True
    if body.get("stream") or not texts[0].startswith(_ABOUT) or is_with_found(texts[0]):
        return False
    guess = TASK not in headers and any(name.startswith(PREFIX) for name in headers)
    return guess or any(mark in texts[0] for mark in _SUBJECTS)


def token_user(headers: Mapping[str, str]) -> str | None:
    """Return the user that the program's token names, which comes in the place of a header with the user's id.

    Its signature is not checked: who could write a token could write that header too.
    """
    try:
        payload = headers[TOKEN].split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        return None
    return subject if isinstance(subject, str) else None


def rated_text(given: Mapping[str, Any], message_id: object) -> str | None:
    """Return the text of the message that a rating is about, None if the chat is not in it, as it is in an export."""
    found: Any = given.get("snapshot")
    for name in ("chat", "chat", "history", "messages", message_id, "content"):
        found = found.get(name) if isinstance(found, dict) and isinstance(name, str) else None
    return found if isinstance(found, str) and found.strip() else None
