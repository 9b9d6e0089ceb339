"""Claude, over Anthropic's API."""

import os
from dataclasses import replace
from typing import Any

from sdpo.errors import SettingError
from sdpo.llm.address import checked_url, is_loopback
from sdpo.llm.backend import Reply, Request
from sdpo.llm.http_backend import HttpBackend
from sdpo.llm.refusals import SCHEMA, TEMPERATURE

URL = "https://api.anthropic.com"


def claude_url() -> str:
    """Return the API's URL: ANTHROPIC_BASE_URL if set, otherwise Anthropic's."""
    return checked_url(os.environ.get("ANTHROPIC_BASE_URL") or URL, "ANTHROPIC_BASE_URL")


class ClaudeBackend(HttpBackend):
    """A Claude model. Only the SDK retries, and only the given key is sent as a credential."""

    kind = "claude"
    expected = "a message"

    def __init__(
        self,
        model: str,
        api_key: str | None,
        retries: int = 4,
        *,
        model_setting: str = "USER_MODEL_NAME_OR_PATH",
    ):
        if not api_key:
            raise SettingError(f"{model} needs ANTHROPIC_API_KEY, in the environment or .env.")
        url = claude_url()
        try:
            import anthropic
        except ImportError:
            raise SettingError(
                f"{model} needs the anthropic package. Install it: make setup, or pip install 'sdpo[claude]'."
            ) from None
        self.settings = ("ANTHROPIC_BASE_URL", model_setting, "ANTHROPIC_API_KEY")
        super().__init__(anthropic, url, model, api_key)
        # The SDK's client takes proxies from the environment even with trust_env=False.
        no_proxy: dict[str, None] = dict.fromkeys(("http://", "https://", "all://")) if is_loopback(url) else {}
        self._client = anthropic.Anthropic(
            base_url=url,
            api_key=api_key,
            max_retries=retries,
            http_client=anthropic.DefaultHttpxClient(event_hooks=self._hooks(), mounts=no_proxy),
        )

    def _create(self, request: Request, changes: frozenset[str], timeout: float) -> Any:
        system = "\n\n".join(message["content"] for message in request.messages if message["role"] == "system")
        optional: dict[str, Any] = {"system": system} if system else {}
        if request.schema and SCHEMA not in changes:
            optional["output_config"] = {"format": {"type": "json_schema", "schema": request.schema}}
        if TEMPERATURE not in changes:
            # This release of the SDK has no temperature argument.
            optional["extra_body"] = {"temperature": request.temperature}
        messages: list[Any] = [message for message in request.messages if message["role"] != "system"]
        return self._client.messages.with_raw_response.create(
            model=self.model,
            messages=messages,
            max_tokens=request.max_tokens,
            timeout=timeout,
            **optional,
        )

    def _read(self, body: Any) -> Reply:
        text = "".join(block.text for block in body.content if block.type == "text")
        reply = Reply(text, body.usage.input_tokens, body.usage.output_tokens)
        return replace(reply, text="", raw=text) if body.stop_reason == "refusal" else reply
