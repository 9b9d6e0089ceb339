"""The job of the chat: its check, and the choice of terminal or page."""

from typing import TYPE_CHECKING

from sdpo.errors import SettingError, pip_install
from sdpo.settings.inputs import check_model_path, read_template

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import ChatSettings


def check(settings: "ChatSettings", job: "Job") -> None:
    """Check everything that needs no server. Raises SdpoError on the first problem."""
    read_template(settings.hindsight_template, settings.hindsight_file)
    if settings.model is not None:
        check_model_path("model", settings.model)  # one of the hub is looked for at the first /signal
    missing = _missing_packages(settings)
    if missing:
        raise SettingError(f"the chat needs {missing}, which is not installed. Run {pip_install('sdpo[loop]')}.")


def _missing_packages(settings: "ChatSettings") -> str:
    from importlib.util import find_spec

    needed = ["httpx", "starlette", "uvicorn"] if settings.page else ["httpx", "prompt_toolkit", "rich"]
    return ", ".join(name for name in needed if find_spec(name) is None)


def run(settings: "ChatSettings", job: "Job") -> int:
    """Chat on the terminal, or serve the page until Ctrl-C; return the exit code."""
    if settings.page:
        from sdpo.chat.server import serve

        return serve(settings)
    from sdpo.chat.terminal import run as chat

    return chat(settings)
