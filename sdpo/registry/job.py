"""The jobs of the registry: promote, rollback, versions. Importing this is cheap."""

from typing import TYPE_CHECKING

from sdpo.registry.history import read_moves
from sdpo.registry.live import of_conversations, read_live
from sdpo.registry.moves import promote, rollback, states
from sdpo.registry.trained import candidate_of, register
from sdpo.registry.versions import Version, versions
from sdpo.runtime.commands import command, on_registry
from sdpo.runtime.ending import say

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import PromoteSettings, RegistrySettings, RollbackSettings

_COLUMNS = ("version", "state", "created", "parent", "learned from", "verdict")


def check_promote(settings: "PromoteSettings", job: "Job") -> None:
    """Check RUN_DIR, and print in a dry run which checkpoint would become a version. Raises as `candidate_of` does."""
    found = candidate_of(settings)
    if settings.dry_run and found is not None:
        print(f"note: {found.name} would become a version of {settings.registry}.\n", flush=True)


def run_promote(settings: "PromoteSettings", job: "Job") -> None:
    """Let a version, or with RUN_DIR a run, go live, or as a canary. Raises as `candidate_of` and `promote` do."""
    found = candidate_of(settings)
    name = settings.version if found is None else register(settings, found).name
    before = read_live(settings.registry).version
    version = promote(settings, name, settings.force, "by hand")
    live, back = read_live(settings.registry), on_registry(settings.registry, "rollback")
    if live.canary is not None and live.canary.version == version.name:
        compare, finish = (on_registry(settings.registry, word) for word in ("canary", "promote"))
        say(
            f"{version.name} answers {of_conversations(live.canary.share)}. {back} takes it back.",
            then=compare, why=f"compares it with what is live; {finish} lets it go live",
        )  # fmt: skip
    else:
        state = "was live already" if before == version.name else "is live"
        sentence = f"{version.name} {state} as {live.model}. {back} goes back to what was live before."
        say(
            sentence,
            then=command("chat", tiny=settings.tiny),
            why=f"talks to it, through {command('gateway', tiny=settings.tiny)}",
        )


def run_rollback(settings: "RollbackSettings", job: "Job") -> None:
    """Go back to what was live before. Raises what `rollback` raises."""
    had_canary = read_live(settings.registry).canary
    target = rollback(settings, settings.version, "by hand")
    if had_canary is not None and settings.version is None:
        sentence = f"{had_canary.version} is no longer tried; {target or 'the base model'} answers alone."
    else:
        sentence = f"{target or 'the base model'} is live again."
    say(sentence, then=command("versions"), why="lists the versions and what is live")


def run_versions(settings: "RegistrySettings", job: "Job") -> None:
    """Print the versions and what is live."""
    print(table(settings), flush=True)


def table(settings: "RegistrySettings") -> str:
    """Return the versions as a table, and what is live in a line."""
    registry = settings.registry
    live, every = read_live(registry), versions(registry)
    if not every:
        return (
            f"{registry} has no version yet: the base model answers. {on_registry(registry, 'learn')} makes one, and "
            f"{on_registry(registry, 'promote', 'RUN_DIR=...')} makes one of a training run."
        )
    now = states(every, live, read_moves(registry, live))
    rows = [_COLUMNS, *(_cells(version, now[version.name]) for version in every)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    lines += ["", f"live: {live.version or 'the base model'}" + (f" ({live.model})" if live.model else "")]
    if live.canary is not None:
        lines.append(f"canary: {live.canary.version} for {of_conversations(live.canary.share)}")
    return "\n".join(lines)


def _cells(version: Version, state: str) -> tuple[str, ...]:
    interactions = version.data.get("interactions")
    persons = len(version.data.get("persons") or ())
    learned = "–" if interactions is None else f"{interactions} interactions"
    learned += f" of {persons} {'person' if persons == 1 else 'persons'}" if persons else ""  # else none was named
    sentence = version.verdict.get("verdict") or "not evaluated"
    return version.name, state, version.created_at, version.parent or "base", learned, sentence
