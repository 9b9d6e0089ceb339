"""Moving the live pointer: promote, roll back, try a canary and end it.

A version is checked, loaded into the server and asked for an answer; then the move is written to the history and the
pointer replaced; the version that was live is unloaded after a while. Whatever ends the process in between, the pointer
names a version that is complete and was answering, and the same command goes on.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import ServerError, SettingError
from sdpo.registry.history import CANARY, END_CANARY, PROMOTE, ROLLBACK, Move, append_move, former, read_moves
from sdpo.registry.live import Canary, Live, read_live, write_live
from sdpo.registry.serving import upstream_of
from sdpo.registry.versions import KeptBack, Version, check_files, locked, number_of, read, set_state, versions
from sdpo.runtime.commands import on_registry

if TYPE_CHECKING:
    from sdpo.settings import RegistrySettings

BASE = "base"  # the name of the base model, as a version to roll back to
_NOTHING = "nothing to promote: {} has no candidate{}. {} lists what there is; VERSION=... names one of them."


def promote(settings: "RegistrySettings", name: str | None, force: bool = False, reason: str = "") -> Version:
    """Let a version go live: this one, the canary, or the newest candidate; with CANARY as a canary. Return it.

    A candidate without a name is newer than what is live or tried: repeated, the command puts no older one there.
    A version that is live already is loaded again, and its canary too: a server may have lost them in a restart. What
    a move that was killed has left there is unloaded.
    Raises SettingError if there is none, KeptBack if its verdict is to keep the model that is there and `force` is not
    set, ServerError if the server does not answer with it.
    """
    registry = settings.registry
    with locked(registry):
        live = read_live(registry)
        version = _chosen(settings, live) if name is None else read(registry, name)
        if version.kept and not force:
            sentence = version.verdict.get("sentence") or "it was not evaluated"
            raise KeptBack(f"{version.name} has no verdict that lets it go live: {sentence}. FORCE=1 promotes it.")
        check_files(registry, version)
        server = upstream_of(settings)
        model = server.load(version)
        if settings.canary:
            if live.version == version.name:
                raise SettingError(f"{version.name} is live already. Choose another VERSION for the canary.")
            after = replace(live, canary=Canary(version.name, model, settings.canary))
            _move(settings, CANARY, live, after, reason)
        elif (live.version, live.model) == (version.name, model):
            kept: set[str | None] = {model}
            if live.canary is not None:
                kept.add(server.load(read(registry, live.canary.version)))
            reconcile(registry)  # the same command may have been killed after its move
            if settings.upstream is not None:
                _unload(settings, kept)
        else:
            _move(settings, PROMOTE, live, Live(version.name, model), reason)
    return version


def rollback(settings: "RegistrySettings", name: str | None = None, reason: str = "") -> str | None:
    """Go back to what was live before, or to `name`, and return it; None is the base model. A canary ends.

    Where there is a canary and no name, only the canary ends. Raises SettingError if there is nothing to go back to.
    """
    registry = settings.registry
    with locked(registry):
        live = read_live(registry)
        server = upstream_of(settings)
        if live.canary is not None and name is None:
            _move(settings, END_CANARY, live, replace(live, canary=None), reason)
            return live.version
        before = former(read_moves(registry, live))
        target = None if name == BASE else name
        if name is not None and target == live.version and live.move and live.canary is None:
            reconcile(registry)  # the same command was killed after its move
            if settings.upstream is not None:
                _unload(settings, {live.model})
            return target
        if not before or (name is not None and target not in before):
            if live.version is None and name in (None, BASE):
                raise SettingError("there is nothing to roll back to: the base model is live already.")
            if target is not None:
                read(registry, target)  # a name that no version has is the mistake
            shown = ", ".join(one or BASE for one in dict.fromkeys(reversed(before))) or "no version"
            problem = f"{name} cannot be rolled back to" if name else "there is nothing to roll back to"
            raise SettingError(f"{problem}: live before was {shown}.")
        target = before[-1] if name is None else target
        if target is None:
            base = read(registry, live.version).base if live.version else None
            model = server.try_base(base)
        else:
            version = read(registry, target)
            check_files(registry, version)
            model = server.load(version)
        _move(settings, ROLLBACK, live, Live(target, model), reason)
    return target


def states(all_versions: Sequence[Version], live: Live, moves: Sequence[Move]) -> dict[str, str]:
    """Return name -> what became of each version, by the pointer and its history."""
    found = {version.name: "kept" if version.kept else "candidate" for version in all_versions}
    for move in moves:
        if move.action == PROMOTE and move.before:
            found[move.before] = "former"
        elif move.action == ROLLBACK and move.before:
            found[move.before] = "rejected"
        if move.canary and move.action != CANARY and move.canary != move.after:
            found[move.canary] = "rejected"
    found |= {live.canary.version: "canary"} if live.canary else {}
    found |= {live.version: "live"} if live.version else {}
    return found


def reconcile(registry: Path) -> None:
    """Write what became of each version to its file, where a process that was killed left something else."""
    live = read_live(registry)
    for name, state in states(versions(registry), live, read_moves(registry, live)).items():
        if (registry / "versions" / name).is_dir():
            set_state(registry, name, state)


def _chosen(settings: "RegistrySettings", live: Live) -> Version:
    """Return what is promoted without a name: the canary, if it may be meant, or the newest candidate.

    That is newer than what is live or tried. If there is none because a promotion was killed behind its move, its
    version is returned: the same command goes on. Raises SettingError if there is none.
    """
    registry, tried = settings.registry, live.canary.version if live.canary else None
    if tried is not None and not settings.canary:
        return read(registry, tried)
    every, done = versions(registry), read_moves(registry, live)
    now = states(every, live, done)
    passed = [name for name in (live.version, tried) if name is not None]
    newest = max(passed, key=number_of, default=None)
    for version in reversed(every):
        if now[version.name] == "candidate" and (newest is None or number_of(version.name) > number_of(newest)):
            return version
    moved, action = (tried, CANARY) if settings.canary else (live.version, PROMOTE)
    unwritten = any(version.state != now[version.name] for version in every)
    if moved and done and done[-1].action == action and (unwritten or _left_behind(settings, live)):
        return read(registry, moved)
    place = "" if newest is None else f" that is newer than {newest}, which is {'tried' if newest == tried else 'live'}"
    raise SettingError(_NOTHING.format(registry, place, on_registry(registry, "versions")))


def _left_behind(settings: "RegistrySettings", live: Live) -> bool:
    """Return whether the server holds what neither side needs: of a move that was killed before it was unloaded."""
    if settings.upstream is None:
        return False
    try:
        return bool(upstream_of(settings).others({live.model, live.canary.model if live.canary else None}))
    except ServerError:
        return False


def _move(settings: "RegistrySettings", action: str, live: Live, after: Live, reason: str) -> None:
    """Write the move, replace the pointer, and unload what neither side needs any more."""
    registry, number = settings.registry, live.move + 1
    at = datetime.now(UTC).isoformat(timespec="seconds")
    canary = after.canary or live.canary
    append_move(
        registry,
        Move(number, action, live.version, after.version, canary.version if canary else None, at, reason),
    )
    write_live(registry, replace(after, changed_at=time.time(), move=number))
    reconcile(registry)
    if settings.upstream is not None:
        _unload(settings, {after.model, after.canary.model if after.canary else None})


def _unload(settings: "RegistrySettings", kept: set[str | None]) -> None:
    """Unload what the server holds beside these, also of a move that was killed. The pointer is where it belongs."""
    try:
        server = upstream_of(settings)
        others = server.others(kept)
        if others and settings.unload_after:
            print(f"waiting {settings.unload_after:g} s for answers in flight (UNLOAD_AFTER)", flush=True)
            time.sleep(settings.unload_after)
        server.unload(others)
    except ServerError:
        words = "UPSTREAM no longer responds, so what was live before may still be loaded; the next move unloads it"
        print(f"warning: {words}", file=sys.stderr, flush=True)
