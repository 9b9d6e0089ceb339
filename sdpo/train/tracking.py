"""Where a run is tracked: in wandb online or offline, by another tracker in the run directory, or nowhere.

Transformers has an integration of each tracker. `check_tracking` decides before anything is loaded; the processes
started later inherit its decision through WANDB_MODE. Importing this module is cheap.
"""

import base64
import json
import logging
import os
import re
import urllib.error
import urllib.request
from configparser import ConfigParser, Error
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError, in_environment
from sdpo.llm import checked_url, is_loopback, shown_url

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings

ONLINE, OFFLINE, DISABLED = "online", "offline", "disabled"
_MODES = {"online": ONLINE, "run": ONLINE, "shared": "shared", "offline": OFFLINE, "dryrun": OFFLINE} | {
    "disabled": DISABLED
}
_TRUE = ("1", "true", "yes", "on")
_HOST = "https://api.wandb.ai"
_TIMEOUT = 10.0
_QUERY = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
# The packages of each other tracker, any of which will do: the first is what to install.
PACKAGES = {"trackio": ("trackio",), "tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",)}
# What wandb itself demands of a key: 40 characters, after a prefix and a dash on servers of one's own; or a token.
_KEY = re.compile(r"\w{40,}|[^-]*-[\w-]{40,}|[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


def check_tracking(settings: "TrainingSettings") -> None:
    """Decide where the run is tracked, and set WANDB_MODE accordingly.

    A server is asked only if tracking is online. If it does not respond, tracking is offline, with a note. Raises
    SettingError for an unknown mode, for a key that wandb does not accept, and for a tracker that is not installed.
    """
    if settings.report_to != "wandb":
        packages = PACKAGES.get(settings.report_to, ())
        if packages and all(find_spec(name) is None for name in packages):
            raise SettingError(
                f"REPORT_TO={settings.report_to} needs the {packages[0]} package, which is not installed. Install it "
                f"({in_environment(f'pip install {packages[0]}')}), or set REPORT_TO=none."
            )
        return
    mode = _given_mode()
    key = (settings.wandb_api_key or "").strip()
    if mode in (ONLINE, "shared") and key and os.environ.get("LOCAL_RANK", "0") == "0":
        if not _KEY.fullmatch(key):
            raise SettingError(
                f"WANDB_API_KEY cannot be a key of wandb: those have 40 letters, digits and underscores or "
                f"more, this one has {len(key)} characters. "
                "Correct it, or set WANDB_MODE=offline."
            )
        if problem := _server_problem(key):
            print(f"tracking offline, in the run directory: {problem}. `wandb sync` uploads it later", flush=True)
            mode = OFFLINE
    os.environ["WANDB_MODE"] = mode


def prepare_tracking(settings: "TrainingSettings") -> None:
    """Configure the tracker through the environment: wandb online with a key; all others in the run directory."""
    if settings.report_to != "wandb":
        folder = settings.run_directory_path
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
        os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "sdpo")
        return
    os.environ.setdefault("WANDB_PROJECT", "sdpo")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_DIR"] = str(settings.output_dir)
    # On a full disk wandb's log file would print a traceback for every line of it; the run ends with one line of ours.
    logging.raiseExceptions = False
    os.environ["WANDB_MODE"] = mode = _given_mode()
    if mode != DISABLED and not os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_MODE"] = OFFLINE
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("WANDB_API_KEY is not set: tracking offline, in the run directory", flush=True)


def trackers(settings: "TrainingSettings") -> list[str]:
    """Return the trackers that a trainer reports to: REPORT_TO, and wandb not if it is disabled."""
    if settings.report_to != "wandb":
        return [] if settings.report_to == "none" else [settings.report_to]
    return [] if _given_mode() == DISABLED else ["wandb"]


def is_tracking_error(error: Exception) -> bool:
    """Return whether wandb raised the error, for example for a project that the key may not write to."""
    return type(error).__module__.partition(".")[0] == "wandb"


def _given_mode() -> str:
    """Return the mode that WANDB_MODE and WANDB_DISABLED ask for. Raises SettingError for an unknown one."""
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in _TRUE:
        return DISABLED
    text = os.environ.get("WANDB_MODE", "").strip().lower() or ONLINE
    if text not in _MODES:
        raise SettingError(f"WANDB_MODE={text} must be one of online, offline, disabled.")
    return _MODES[text]


def _server_problem(key: str) -> str | None:
    """Return why wandb's server cannot be used now; None if it can. Raises SettingError if it rejects the key."""
    host = _host()
    user = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {user}", "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{host}/graphql", _QUERY, headers)
        proxies = urllib.request.ProxyHandler({} if is_loopback(host) else None)
        with urllib.request.build_opener(proxies).open(request, timeout=_TIMEOUT) as answer:
            data = json.loads(answer.read(100_000)).get("data") or {}
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            return f"{shown_url(host)} answers with HTTP {error.code}"
        data = {"viewer": None}
    except (OSError, HTTPException, ValueError, AttributeError) as error:
        reason = getattr(error, "reason", error)
        return f"{shown_url(host)} does not respond ({getattr(reason, 'strerror', None) or reason})"
    if "viewer" in data and data["viewer"] is None:
        raise SettingError(
            f"{shown_url(host)} does not accept WANDB_API_KEY. Copy the key from its settings page again, or set "
            "WANDB_MODE=offline."
        )
    return None


def _host() -> str:
    """Return the address of wandb's server: from the environment, wandb's settings files, or the public one."""
    address = os.environ.get("WANDB_BASE_URL", "").strip()
    own = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    for path in (Path("wandb/settings"), Path(own) / "settings"):
        parser = ConfigParser(interpolation=None)
        try:
            parser.read(path, "utf-8")
        except (Error, OSError, UnicodeDecodeError):
            continue
        address = address or parser.get("default", "base_url", fallback="")
    return checked_url(address or _HOST, "WANDB_BASE_URL")
