"""A model behind an OpenAI-compatible server."""

from typing import Any, ClassVar

from sdpo.llm.address import checked_url, has_version, is_loopback
from sdpo.llm.backend import Reply, Request
from sdpo.llm.http_backend import HttpBackend
from sdpo.llm.refusals import ADDRESS, MAX_TOKENS, SCHEMA, SYSTEM, TEMPERATURE, THOUGHTS


class OpenAIBackend(HttpBackend):
    """A model behind an OpenAI-compatible server. Only the SDK retries.

    The server is asked to leave thoughts out, as vLLM, SGLang, llama.cpp and transformers understand it. The
    `*_setting` arguments are the names of the settings that error messages tell the user to correct.
    """

    kind = "openai"
    changeable = (THOUGHTS, SCHEMA, MAX_TOKENS, TEMPERATURE, SYSTEM, ADDRESS)
    unnamed = (THOUGHTS, SCHEMA, SYSTEM)
    notes: ClassVar[dict[str, str]] = HttpBackend.notes | {
        SYSTEM: "takes no system message: it is put before the user's message",
        ADDRESS: "does not answer there, but under /v1: /v1 is added to the address",
    }

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
            http_client=openai.DefaultHttpxClient(trust_env=not is_loopback(url), event_hooks=self._hooks()),
        )
        self._client_v1 = self._client.with_options(base_url=f"{url}/v1")

    def _parts(self, request: Request) -> set[str]:
        parts = super()._parts(request)
        if has_version(self.address):
            parts.remove(ADDRESS)
        if not any(message["role"] == "system" for message in request.messages):
            parts.remove(SYSTEM)
        return parts

    def _create(self, request: Request, changes: frozenset[str], timeout: float) -> Any:
        client = self._client_v1 if ADDRESS in changes else self._client
        messages: list[Any] = _without_system(request.messages) if SYSTEM in changes else request.messages
        limit = "max_completion_tokens" if MAX_TOKENS in changes else "max_tokens"
        optional: dict[str, Any] = {limit: request.max_tokens}
        if TEMPERATURE not in changes:
            optional["temperature"] = request.temperature
        if request.schema and SCHEMA not in changes:
            schema = {"name": "reply", "strict": True, "schema": request.schema}
            optional["response_format"] = {"type": "json_schema", "json_schema": schema}
        if THOUGHTS not in changes:
            optional["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
        return client.chat.completions.with_raw_response.create(
            model=self.model, messages=messages, timeout=timeout, **optional
        )

    def _read(self, body: Any) -> Reply:
        choice, usage = body.choices[0], body.usage
        tokens_in, tokens_out = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        text, refusal = _text_of(choice.message), getattr(choice.message, "refusal", None)
        if choice.finish_reason == "content_filter" or refusal:
            return Reply("", tokens_in, tokens_out, raw=refusal if isinstance(refusal, str) else text)
        return Reply(text, tokens_in, tokens_out)


def _text_of(message: Any) -> str:
    """Return a message's text; the thoughts of a message that has no other text, as an unfinished thought."""
    content = message.content or ""
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else _text_of_part(part) for part in content)
    if isinstance(content, str) and not content.strip():
        for thoughts in (getattr(message, name, None) for name in ("reasoning_content", "reasoning")):
            if isinstance(thoughts, str) and thoughts.strip():
                return f"<think>{thoughts}"
    return content


def _text_of_part(part: dict[str, Any]) -> str:
    """Return the text of a part of a message; parts of other types, such as thinking, have none."""
    return part["text"] if part.get("type", "text") in ("text", "output_text") else ""


def _without_system(messages: list[dict]) -> list[dict]:
    """Return the messages with the text of system messages before that of the first other one."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    first, *rest = [message for message in messages if message["role"] != "system"] or [{"role": "user", "content": ""}]
    return [{**first, "content": "\n\n".join([*system, first["content"]]).strip()}, *rest]
