"""One client for every model behind an API: an OpenAI-compatible server, Claude, or a scripted model.

A backend answers one request over its transport; `Client` sends many requests at once over any backend.
A new kind of model needs only a new backend. An SDK is imported when its backend is created.
"""

from sdpo.llm.address import checked_url, is_loopback, shown_url, without_credentials
from sdpo.llm.backend import Backend, Reply, Request, RequestRefused, ScriptedBackend, deadline_error
from sdpo.llm.cache import ReplyCache
from sdpo.llm.claude_backend import ClaudeBackend, check_claude, claude_url, require_claude
from sdpo.llm.client import Client
from sdpo.llm.http_backend import escape_control_strings
from sdpo.llm.meter import Meter, Price, Usage, price_for, price_of, read_prices
from sdpo.llm.openai_backend import OpenAIBackend
from sdpo.llm.thoughts import has_thoughts, without_thoughts

__all__ = [
    "Backend",
    "ClaudeBackend",
    "Client",
    "Meter",
    "OpenAIBackend",
    "Price",
    "Reply",
    "ReplyCache",
    "Request",
    "RequestRefused",
    "ScriptedBackend",
    "Usage",
    "check_claude",
    "checked_url",
    "claude_url",
    "deadline_error",
    "escape_control_strings",
    "has_thoughts",
    "is_loopback",
    "price_for",
    "price_of",
    "read_prices",
    "require_claude",
    "shown_url",
    "without_credentials",
    "without_thoughts",
]
