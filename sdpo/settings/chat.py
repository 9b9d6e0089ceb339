"""The settings of `chat`."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import http_address, setting_words, template_file
from sdpo.settings.common import MODEL_ELSEWHERE, CommonSettings, Template
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class ChatSettings(CommonSettings):
    """Chatting with the served model."""

    gateway_url: str = setting(
        "http://127.0.0.1:8787/v1", "the gateway, or any OpenAI-compatible server, to chat with", check=http_address
    )
    gateway_api_key: str | None = setting(None, "for a GATEWAY_URL that requires a key", secret=True)
    served_name: str = setting("sdpo", "the name under which the gateway serves the model that is live")
    base_name: str | None = setting(
        None, "for /compare, the name of the model before; if not set, MODEL, else another one that is served"
    )
    model: str | None = setting(
        None, "the model for /signal, loaded here: a hub name or a folder", elsewhere=MODEL_ELSEWHERE
    )
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "the dtype of MODEL's weights; auto: fp32")
    hindsight_template: Template = setting("before", "where the follow-up is shown in hindsight, and in which words")
    hindsight_file: Path | None = setting(
        None, "a file with other words for the template; it must contain {follow_up}", check=template_file
    )
    system_prompt: str | None = setting(None, "a system message for every conversation")
    temperature: float | None = setting(None, "the sampling temperature; if not set, the server's", at_least=0)
    max_completion_tokens: int | None = setting(
        None, "the maximum length of an answer; if not set, the server's", at_least=1
    )
    template_settings: str = setting(
        "",
        "settings of the served model's chat template, as NAME=value words, such as enable_thinking=false",
        check=setting_words,
    )
    chat_timeout: float = setting(120.0, "the seconds to wait for the next part of an answer", above=0)
    page: bool = setting(False, "serve a page for the browser instead of a chat on the terminal")
    page_port: int = setting(8788, "the page's port on 127.0.0.1; 0 for any free one", at_least=0, below=65536)
