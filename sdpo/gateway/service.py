"""The jobs `gateway`, `gateway-key`, `forget` and `export-conversations`."""

import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.errors import RunError, SettingError, pip_install
from sdpo.llm.address import checked_url
from sdpo.runtime.commands import command
from sdpo.runtime.ending import say

if TYPE_CHECKING:
    from sdpo.gateway.retention import Forgotten
    from sdpo.runtime.launch import Job
    from sdpo.settings.gateway import (
        ExportConversationsSettings,
        ForgetSettings,
        GatewayKeySettings,
        GatewaySettings,
        StoreSettings,
    )

_GRACE_SECONDS = 30
_BACKLOG = 2048
_IDLE_SECONDS = 120  # longer than clients keep a connection: else one may take it as it is being closed


def check(settings: "StoreSettings", job: "Job") -> None:
    """Raise SettingError for an address of a store or an upstream that cannot be used, and if a package is missing."""
    check_packages(job)
    from sdpo.gateway.database import sqlite_path

    sqlite_path(settings.store_url)


def check_gateway(settings: "GatewaySettings", job: "Job") -> None:
    """Check the settings as `check` does; a dry run also tries the upstream and prints what it serves."""
    check(settings, job)
    checked_url(settings.upstream, "UPSTREAM")
    from sdpo.gateway.identity import OptOuts  # after `check`, which says what is not installed

    OptOuts(settings.opt_out_file)
    if settings.dry_run:
        import asyncio

        from sdpo.gateway.upstream import what_it_serves

        key, timeout = settings.upstream_api_key, settings.upstream_timeout
        print(asyncio.run(what_it_serves(settings.upstream, key, timeout)) + "\n", flush=True)


def check_packages(job: "Job") -> None:
    """Raise SettingError if a package that the gateway needs is missing."""
    missing = [name for name in ("aiohttp", "httpx", "sqlalchemy", "starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"{job.name} needs {' and '.join(missing)}. Install what is missing: {pip_install('sdpo[loop]')}."
        )


def check_named(settings: "GatewayKeySettings | ForgetSettings", job: "Job") -> None:
    """Raise SettingError if the key's NAME, or the USER to forget, was not given on the command line.

    The environment of most shells has a USER of its own.
    """
    check(settings, job)
    name = "user" if hasattr(settings, "user") else "name"
    given = settings_module.source(settings, name)
    if given not in (settings_module.FLAG, settings_module.MAKE, settings_module.TINY) or not getattr(settings, name):
        raise SettingError(
            f"{name.upper()} is not given. Name it on the command line: {command(job.name)} {name.upper()}=..."
        )


def check_forget(settings: "ForgetSettings", job: "Job") -> None:
    """Check the settings as `check_named` does; a dry run also prints what would be removed."""
    check_named(settings, job)
    if settings.dry_run:
        from sdpo.gateway import retention
        from sdpo.gateway.store import Store

        assert settings.user is not None
        try:
            store = Store(settings.store_url, create=False)
        except SettingError as error:
            if not settings.tiny:
                raise
            print(f"note: {error}\n", flush=True)  # the tiny world has no store before a gateway ran
            return
        _print_found(settings, retention.find(store, settings.user), "would remove")


def run(settings: "GatewaySettings", job: "Job") -> None:
    """Serve until interrupted. Raises RunError if the address is taken or the store cannot be used."""
    import uvicorn

    from sdpo.gateway.app import make_app
    from sdpo.gateway.database import shown
    from sdpo.gateway.identity import in_url, reached_by_others
    from sdpo.gateway.keys import Keys
    from sdpo.gateway.recovery import taking_part
    from sdpo.gateway.store import Store

    listener = _listener(settings)
    store = Store(settings.store_url)
    keys = Keys(store)
    keys.refresh()
    host = settings.gateway_host
    if not keys and not settings.gateway_open and reached_by_others(host):
        raise SettingError(
            f"GATEWAY_HOST={host} is open to other machines, and there is no key. Make one: "
            f"{command('gateway-key')} NAME=..."
        )
    app = make_app(settings, store)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # Not before: from here on a signal to end is not lost, and ends the requests that are being answered first.
            print(f"gateway: {address} in front of {app.state.gateway.upstream.shown}; store: {where}")
            print(_who_may(bool(keys), settings.gateway_open), flush=True)

    with taking_part(store, app.state.gateway.name) as completed:
        if completed:
            print(f"{completed} answers that an earlier gateway broke off were completed in the store", flush=True)
        address, where = f"http://{in_url(host)}:{listener.getsockname()[1]}/v1", shown(settings.store_url)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="on", proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS, timeout_keep_alive=_IDLE_SECONDS, backlog=_BACKLOG,
            h11_max_incomplete_event_size=2**20,
        )  # fmt: skip
        Server(config).run(sockets=[listener])


def _listener(settings: "GatewaySettings") -> socket.socket:
    host, port = settings.gateway_host, settings.gateway_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # who connects from now on waits until the store is open
    except OSError as error:
        listener.close()
        raise RunError(
            f"the gateway cannot listen on {host} port {port}: {error.strerror}. Choose another GATEWAY_PORT."
        ) from None
    return listener


def _who_may(keys: bool, open_to_all: bool) -> str:
    if keys:
        return f"clients need a key of this gateway ({command('gateway-key')} NAME=...)"
    if open_to_all:
        return "GATEWAY_OPEN=1 and no keys: whoever reaches this address may use it"
    return f"no keys yet, so only this machine is answered ({command('gateway-key')} NAME=... makes one)"


def make_key(settings: "GatewayKeySettings", job: "Job") -> None:
    """Make a key and print it, or withdraw one. Raises SettingError for a name that is taken or has no key."""
    from sdpo.gateway import keys
    from sdpo.gateway.store import Store

    assert settings.name is not None
    store = Store(settings.store_url)
    if settings.revoke:
        keys.revoke_key(store, settings.name)
        left = keys.Keys(store)
        left.refresh()
        last = "" if left else "; it was the last one, so a gateway on this machine's loopback needs none now"
        return say(f"the key {settings.name} is withdrawn{last}")
    key = keys.make_key(store, settings.name, settings.key_rate, settings.key_concurrency)
    print(f"the key {settings.name}, which is shown only now:\n{key}", flush=True)  # last: scripts read it


def forget(settings: "ForgetSettings", job: "Job") -> None:
    """Remove a user's conversations and print what learned from them."""
    from sdpo.gateway import retention
    from sdpo.gateway.store import Store

    assert settings.user is not None
    store = Store(settings.store_url, create=False)
    _print_found(settings, retention.forget(store, settings.user), "removed")


def _print_found(settings: "ForgetSettings", gone: "Forgotten", done: str) -> None:
    """Print what was found of a user, what was done with it, and what learned from it."""
    from sdpo.gateway.database import shown
    from sdpo.gateway.learned import versions_with

    if not gone.conversations:
        print(f"nobody of the name {settings.user} is in the store {shown(settings.store_url)}", flush=True)
        return
    print(f"{done} what {settings.user} said: conversations {len(gone.conversations)}, exchanges {gone.exchanges}")
    print("not reached: what was exported or prepared (data/), and the folders of nights (runs/learn)")
    versions = versions_with(settings.registry, gone.conversations, gone.runs)
    if not gone.runs and not versions:
        print("nothing has learned from them", flush=True)
        return
    print(f"learned from them, by the store: {', '.join(gone.runs) or 'nothing is noted'}")
    print(f"learned from them, in the registry {settings.registry}: {', '.join(versions) or 'no version'}")
    if versions:
        print("These weights stay. Train a new version without the conversations, then remove these.", flush=True)


def export(settings: "ExportConversationsSettings", job: "Job") -> None:
    """Write the conversations for `make prep-logs`. Raises RunError if the file is there already."""
    from sdpo.gateway.export import FILE, write_conversations
    from sdpo.gateway.store import Store

    path = settings.out_dir / FILE
    if path.exists() and not settings.force:
        raise RunError(f"{path} exists already. Set FORCE=1 to replace it, or choose another OUT_DIR.")
    store = Store(settings.store_url, create=False)
    count = write_conversations(store, path, settings.only_unused)
    sentence = f"{count} conversations in {path}."
    say(sentence, then=command("prep-logs", input=path), why="makes interactions of them")
