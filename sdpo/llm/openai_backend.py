"""A model behind an OpenAI-compatible server."""

from typing import Any

from sdpo.llm.address import checked_url, is_loopback
from sdpo.llm.backend import Request
from sdpo.llm.http_backend import HttpBackend


class OpenAIBackend(HttpBackend):
    """A model behind an OpenAI-compatible server. Only the SDK retries.

    The `*_setting` arguments are the names of the settings that error messages tell the user to correct.
    """

    kind = "openai"

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        retries: int = 4,
        *,
        url_setting: str = "SIMULATOR_URL",
        model_setting: str = "USER_MODEL_NAME_OR_PATH",
        key_setting: str = "SIMULATOR_API_KEY",
    ):
        url = checked_url(url, url_setting)
        import openai  # takes more than a second, which --help and --dry-run do not need

        self.settings = (url_setting, model_setting, key_setting)
        # Never None: the SDK would then send the key from the environment to a server that it is not meant for.
        super().__init__(openai, url, model, api_key or "none")
        self._client = openai.OpenAI(
            base_url=url,
            api_key=self._key,
            max_retries=retries,
            http_client=openai.DefaultHttpxClient(
                trust_env=not is_loopback(url), event_hooks={"request": [self._keep_deadline]}
            ),
        )

    def _create(self, request: Request, left_out: frozenset[str], timeout: float) -> Any:
        messages: list[Any] = request.messages
        optional: dict[str, Any] = {}
        if request.schema and "schema" not in left_out:
            schema = {"name": "reply", "strict": True, "schema": request.schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": schema}
        return self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=messages,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            timeout=timeout,
            **optional,
        )

    def _read(self, body: Any) -> tuple[str, int | None, int | None]:
        choice, usage = body.choices[0], body.usage
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        declined = choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None)
        return "" if declined else choice.message.content or "", *counts
