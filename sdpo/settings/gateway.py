"""The settings of the gateway, its store and its keys."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path

from sdpo.settings.checks import existing_file, http_address, own_address
from sdpo.settings.common import CommonSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class StoreSettings(CommonSettings):
    """The store of conversations."""

    store_url: str = setting(
        "sqlite:///runs/store.sqlite",
        "the store of conversations: a SQLite file (sqlite:///FILE) or PostgreSQL (postgresql+psycopg://user@host/db; "
        "the password is better in PGPASSWORD)",
    )
    registry: Path = setting(Path("runs/registry"), "the folder of the versions and of the pointer to the live one")


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(StoreSettings):
    """The gateway."""

    upstream: str = setting(
        "http://127.0.0.1:8000/v1", "the OpenAI-compatible server behind the gateway", check=http_address
    )
    upstream_api_key: str | None = setting(None, "for an UPSTREAM that requires a key", secret=True)
    upstream_model: str | None = setting(
        None,
        "UPSTREAM's name for the base model, which answers while no version is live; if not set, the first it lists",
    )
    upstream_timeout: float = setting(600.0, "the seconds that UPSTREAM may be silent", above=0)
    gateway_host: str = setting(
        "127.0.0.1", "the address to listen on; any other than a loopback address needs keys", check=own_address
    )
    gateway_port: int = setting(8787, "the port to listen on; 0 is any free one", at_least=0, below=65536)
    gateway_open: bool = setting(
        False,
        "listen on other addresses without keys too, where the network keeps others out; who asks by a name with dots "
        "is refused",
    )
    served_name: str = setting("sdpo", "the name under which clients ask for the live version")
    max_in_flight: int = setting(512, "the maximum number of requests at once; more are refused with 429", at_least=1)
    opt_out_file: Path | None = setting(
        None,
        "a file of users, one a line, of whom nothing is kept; it is read again when it changes",
        check=existing_file,
    )
    retention_days: float = setting(0.0, "remove what is older than this many days; 0 keeps all", at_least=0)
    redact: bool = setting(
        True,
        "replace keys, passwords, e-mail, phone, card, IBAN and identity numbers, addresses of machines by marks",
    )


@dataclass(frozen=True, kw_only=True)
class GatewayKeySettings(StoreSettings):
    """A key of the gateway."""

    name: str | None = setting(None, "the name of the key")
    key_rate: int = setting(0, "the requests a minute that the key allows; 0 is no limit", at_least=0)
    key_concurrency: int = setting(0, "the requests at once that the key allows; 0 is no limit", at_least=0)
    revoke: bool = setting(False, "withdraw the key of this name instead of making one")


@dataclass(frozen=True, kw_only=True)
class ForgetSettings(StoreSettings):
    """What to forget."""

    user: str | None = setting(None, "the user whose conversations are removed; on the command line only")


@dataclass(frozen=True, kw_only=True)
class ExportConversationsSettings(StoreSettings):
    """Where to export to."""

    out_dir: Path = setting(Path("data/conversations"), "the folder for conversations.jsonl")
    only_unused: bool = setting(False, "export only conversations that no run has learned from as they are now")
    force: bool = setting(False, "overwrite existing output")
