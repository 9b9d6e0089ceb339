"""Claude, over Anthropic's API."""

import os
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from sdpo.errors import ServerError, SettingError, pip_install
from sdpo.llm.address import checked_url, is_loopback
from sdpo.llm.backend import Reply, Request, RequestRefused
from sdpo.llm.health import instead_of
from sdpo.llm.http_backend import DeadlinePassedError, HttpBackend, broken
from sdpo.llm.refusals import SCHEMA, TEMPERATURE

URL = "https://api.anthropic.com"
CHECK_SECONDS = 10.0


def claude_url() -> str:
    """Return the API's URL: ANTHROPIC_BASE_URL if set, otherwise Anthropic's."""
    return checked_url(os.environ.get("ANTHROPIC_BASE_URL") or URL, "ANTHROPIC_BASE_URL")


def require_claude(model: str, api_key: str | None, setting: str) -> None:
    """Raise SettingError if what the Claude model needs is missing: the key, the package, a usable URL of the API.

    `setting` is the setting that names the model.
    """
    claude_url()
    if not api_key:
        raise SettingError(
            f"{setting}={model} needs ANTHROPIC_API_KEY. Put it into the environment or .env, or set another {setting}."
        )
    if find_spec("anthropic") is None:
        raise SettingError(f"the anthropic package is not installed: make setup, or {pip_install('sdpo[claude]')}.")


def check_claude(model: str, api_key: str | None, setting: str, dry_run: bool) -> None:
    """Check that the API accepts the key and has the model, before anything is loaded.

    Raises RequestRefused if it does not, and ServerError if it does not respond, which a dry run only notes.
    """
    require_claude(model, api_key, setting)
    backend = ClaudeBackend(model, api_key, retries=0 if dry_run else 2, model_setting=setting)
    if not (problem := backend.check(CHECK_SECONDS)):
        return
    message = f"ANTHROPIC_API_KEY could not be checked at {backend.url} ({problem})."
    if not dry_run:
        raise ServerError(f"{message} Try again.")
    print(f"note: {message}", flush=True)


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
                f"{model} needs the anthropic package. Install it: make setup, or {pip_install('sdpo[claude]')}."
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

    def check(self, seconds: float) -> str:
        """Return why it could not be checked that the API accepts the key and has the model, "" if it does.

        Asks for the description of the model, which costs nothing. Raises RequestRefused if it refuses either.
        """
        sdk, key = self._sdk, self.settings[2]
        self._thread.deadline = time.monotonic() + seconds
        try:
            self._client.models.retrieve(self.model, timeout=seconds)
        except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
            advice = f"check {key} in the environment or .env."
            raise RequestRefused(f"{self.name} refuses the key (HTTP {error.status_code}): {advice}", key) from None
        except sdk.NotFoundError:
            self._check_listed(seconds)  # another server behind ANTHROPIC_BASE_URL may describe no models
        except sdk.APIStatusError as error:
            return f"HTTP {error.status_code}"
        except sdk.APIConnectionError as error:
            return broken(error.__cause__).rstrip(".")
        except (DeadlinePassedError, Exception) as error:  # the SDK raises many types for what it does not expect
            return type(error).__name__
        return ""

    def _check_listed(self, seconds: float) -> None:
        """Raise RequestRefused if the API lists its models, without this one."""
        try:
            listed = [str(found.id) for found in self._client.models.list(limit=100, timeout=seconds).data]
        except (DeadlinePassedError, Exception):
            return
        if listed and self.model not in listed:
            setting = self.settings[1]
            advice = f"{instead_of(self.model, listed)} Set {setting} to one of its models."
            raise RequestRefused(f"{self.url} has no model {self.model}. {advice}", setting)

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
