"""The simulated user of a training run: checked before a model is loaded, then built from the settings.

Importing this is cheap.
"""

from pathlib import Path
from typing import TYPE_CHECKING

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
    price_for,
    require_claude,
)
from sdpo.settings import OnlineSettings
from sdpo.settings.training import RULE
from sdpo.users.rule_user import RuleUser
from sdpo.users.simulator import SimulatedUser
from sdpo.users.styles import own_styles, persona_of

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.users.oracle import Oracle


def check_user(settings: OnlineSettings, job: "Job") -> None:
    """Raise SettingError if the style, the key, the package or the price that the user needs is missing."""
    persona_of(settings.style, settings.style_file)
    job.find_oracle(settings.model, settings.style, settings.style_file)  # refuses a style that its world has not
    if settings.tiny and not settings.user_is_rule:
        _check_tiny_user(settings, job)
    if settings.user_is_rule:
        _rule_oracle(settings, job)
    if settings.user_is_claude:
        require_claude(settings.user_model_name_or_path, settings.anthropic_api_key, "USER_MODEL_NAME_OR_PATH")
    _price(settings)


def _check_tiny_user(settings: OnlineSettings, job: "Job") -> None:
    """Raise SettingError if the tiny model is to play a user whose style its language cannot express.

    With a server it is a note: that may have another model under this name.
    """
    try:
        job.find_oracle(settings.user_model_name_or_path, settings.style)
    except SettingError:
        own = own_styles(settings.style_file).get(settings.style)
        if own is None:
            raise
        style = f"STYLE={settings.style} of {settings.style_file}"
        fault = f"{style} is not in the tiny world, so its model cannot play the user"
        if settings.simulator_url is not None:
            print(f"note: {fault}. Set USER_MODEL_NAME_OR_PATH to a model of the server that can.", flush=True)
            return
        way = "SIMULATOR_URL to a server, and USER_MODEL_NAME_OR_PATH to a model of it that can"
        if own.rule:
            way = "USER_MODEL_NAME_OR_PATH=rule"
        raise SettingError(f"{fault}. Set {way}.") from None


def build_rule_user(settings: OnlineSettings, job: "Job") -> RuleUser:
    """Return the user that needs no model. Raises SettingError if no rule can check the style."""
    return _rule_oracle(settings, job).user(settings.seed)


def build_user(settings: OnlineSettings, folder: Path, process: int, processes: int) -> SimulatedUser:
    """Return the simulated user of one of the run's processes; its reply cache is in the folder.

    CONCURRENCY and MAX_COST apply to the run: each process gets an equal share and does not wait for the others.
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
    return SimulatedUser(
        client, persona, settings.user_temperature, settings.user_max_tokens, settings.user_states_satisfaction
    )


def user_url(settings: OnlineSettings) -> str:
    """Return the base URL of the user's server, ending in /v1, to check its health at."""
    return f"{claude_url()}/v1" if settings.user_is_claude else _simulator_url(settings)


def _rule_oracle(settings: OnlineSettings, job: "Job") -> "Oracle":
    oracle = job.find_oracle(settings.model, settings.style, settings.style_file)
    if oracle is None:
        raise SettingError(
            f"USER_MODEL_NAME_OR_PATH={RULE}: no rule checks STYLE={settings.style}. Choose a style that a rule can "
            "check, such as brief or no_lists, give your own a rule in STYLE_FILE, or choose a model as the user."
        )
    return oracle


def _backend(settings: OnlineSettings) -> Backend:
    if settings.user_is_claude:
        return ClaudeBackend(settings.user_model_name_or_path, settings.anthropic_api_key)
    return OpenAIBackend(_simulator_url(settings), settings.user_model_name_or_path, settings.simulator_api_key)


def _simulator_url(settings: OnlineSettings) -> str:
    if settings.simulator_url is None:  # the launcher fills it in when it starts the server
        raise SettingError("SIMULATOR_URL is not set. Name the server of the simulated user.")
    return settings.simulator_url


def _price(settings: OnlineSettings) -> Price | None:
    """Return the price of the user's model, None without one. Raises SettingError if MAX_COST needs one."""
    local = not settings.user_is_claude and (settings.simulator_url is None or is_loopback(settings.simulator_url))
    return price_for(settings.user_model_name_or_path, settings.price_file, settings.max_cost, charges=not local)
