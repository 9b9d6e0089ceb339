"""The simulated user of a training run: checked before anything is loaded, then built from the settings.

Importing this is cheap.
"""

from importlib.util import find_spec
from pathlib import Path

from sdpo.errors import SettingError
from sdpo.llm import (
    Backend,
    ClaudeBackend,
    Client,
    Meter,
    OpenAIBackend,
    Price,
    ReplyCache,
    claude_url,
    is_loopback,
    price_of,
    read_prices,
)
from sdpo.settings import OnlineSettings
from sdpo.users.simulator import SimulatedUser, persona_of


def check_user(settings: OnlineSettings) -> None:
    """Raise SettingError where the user could not be asked or paid for."""
    persona_of(settings.style, settings.style_file)
    if settings.user_is_claude:
        claude_url()
        if not settings.anthropic_api_key:
            raise SettingError(
                f"USER_MODEL_NAME_OR_PATH={settings.user_model_name_or_path} needs ANTHROPIC_API_KEY. "
                "Put it into the environment or .env."
            )
        if find_spec("anthropic") is None:
            raise SettingError("the anthropic package is not installed. Install the locked packages (make setup).")
    _price(settings)


def build_user(settings: OnlineSettings, folder: Path, process: int, processes: int) -> SimulatedUser:
    """Return the user of one of the run's processes, which keeps its replies in the folder.

    CONCURRENCY and MAX_COST are for the run: each process has its part of them and waits for no other.
    """
    cache = ReplyCache(folder / f"replies-{process}.jsonl")
    limit = settings.max_cost / processes if settings.max_cost is not None else None
    client = Client(
        _backend(settings),
        max(1, settings.concurrency // processes),
        settings.simulator_timeout,
        cache=cache,
        meter=Meter(_price(settings), limit, cache.paid),
    )
    persona = persona_of(settings.style, settings.style_file)
    return SimulatedUser(client, persona, settings.user_temperature, settings.user_max_tokens)


def address(settings: OnlineSettings) -> str:
    """Return the address, ending in /v1, at which the user's server can be asked whether it is there."""
    return f"{claude_url()}/v1" if settings.user_is_claude else settings.simulator_url


def _backend(settings: OnlineSettings) -> Backend:
    if settings.user_is_claude:
        return ClaudeBackend(settings.user_model_name_or_path, settings.anthropic_api_key)
    return OpenAIBackend(settings.simulator_url, settings.user_model_name_or_path, settings.simulator_api_key)


def _price(settings: OnlineSettings) -> Price | None:
    prices = read_prices(settings.price_file)
    price = price_of(settings.user_model_name_or_path, prices)
    ours = not settings.user_is_claude and (settings.simulator_url is None or is_loopback(settings.simulator_url))
    if price is None and settings.max_cost is not None and not ours:
        raise SettingError(
            f"MAX_COST needs the price of {settings.user_model_name_or_path}, and we have none. Name a PRICE_FILE such "
            'as {"model": {"in": 1.0, "out": 5.0}}, in dollars for a million tokens.'
        )
    return price
