"""What a client found, in documents or on the web, and put before a user's words in one message. Pure functions."""

import re

# Open WebUI's template; it ends with what was found. A text of the user's may hold the end mark too: the last counts.
_FOUND = re.compile(r"\s*### Task:\s+Respond to the user query using the provided context\b.*</context>", re.DOTALL)


def own_words(text: str) -> str:
    """Return a user's message without what the client found and put before it; all of it if nothing else is there."""
    found = _FOUND.match(text)
    return (text[found.end() :].strip() if found else "") or text


def is_with_found(text: str) -> bool:
    """Return whether a user's message begins with what the client found."""
    return _FOUND.match(text) is not None
