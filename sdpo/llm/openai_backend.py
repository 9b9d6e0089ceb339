"""A model behind an OpenAI-compatible server."""

from typing import Any

from sdpo.llm.address import checked_url, is_loopback
from sdpo.llm.backend import Request
from sdpo.llm.http_backend import HttpBackend


class OpenAIBackend(HttpBackend):
    """A model behind an OpenAI-compatible server. The SDK's own retries are the only ones.

    The `*_setting` names are what an error tells the reader to mend.
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
        import openai  # a second and more, which --help and --dry-run need not pay

        self.settings = (url_setting, model_setting, key_setting)
        # Never None: the SDK would send the key it finds in the environment to a server it is not for.
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
        optional = {}
        if request.schema and "schema" not in left_out:
            form = {"name": "reply", "strict": True, "schema": request.schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": form}
        return self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=request.messages,
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
