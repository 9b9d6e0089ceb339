"""The command that repeats a run, from what its folder recorded: no secret is in a folder, nor in the command."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpo import errors
from sdpo import settings as settings_module
from sdpo.llm.address import without_credentials
from sdpo.report.folder import EVALUATION, Folder, listing, mapping
from sdpo.settings.recorded import under_present_names

# They say where a run goes and how it goes on, not what it computes; with them the run itself would be found finished.
_OF_THE_FOLDER = {"run_id", "output_dir", "out_dir", "resume", "dry_run", "sources"}
_MODULES = ("train_", "eval", "signal_analysis", "audit", "learn")


def job_of(folder: Folder, written: Mapping[str, Any]) -> str:
    """Return the Make target that made the folder, empty if it is not known; `written` is its run.json or eval.json."""
    if isinstance(written.get("job"), str) and written["job"]:
        return str(written["job"])
    words = listing(written.get("command"))
    stem = Path(str(words[0])).stem if words else ""
    if stem.startswith(_MODULES):
        return stem.replace("_", "-")
    return "eval" if folder.kind == EVALUATION else ""


def command(folder: Folder, written: Mapping[str, Any]) -> str:
    """Return the command that repeats what made the folder, empty if its job or its settings are not known.

    It has the settings that the user gave. A folder that did not record these, as older ones, has those that differ
    from the declared defaults: `exact` is then False.
    """
    job = job_of(folder, written)
    recorded = under_present_names(mapping(written.get("settings")))
    if not job or not recorded:
        return ""
    values = under_present_names(mapping(written.get("given"))) if exact(written) else _changed(job, recorded)
    if folder.kind == EVALUATION and written.get("run"):
        values = {"run_dir": written["run"], **values}
    left_out = _secrets() | _OF_THE_FOLDER
    kept = {
        name: value
        for name, value in values.items()
        if value is not None and name not in left_out and value != "redacted"
    }
    return errors.command(" ".join([job, *settings_module.as_words(kept)]))


def exact(written: Mapping[str, Any]) -> bool:
    """Return whether the folder recorded which settings the user gave."""
    return isinstance(written.get("given"), dict)


def _changed(job: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded settings that are not the declared defaults."""
    kinds = {
        "train-online": settings_module.OnlineSettings,
        "train-offline": settings_module.OfflineSettings,
        "eval": settings_module.EvalSettings,
        "audit": settings_module.AuditSettings,
        "signal-analysis": settings_module.AnalysisSettings,
    }
    kind = next((kind for name, kind in kinds.items() if job.startswith(name)), None)
    declared = settings_module.known_names() if kind is None else settings_module.settings_of(kind)
    changed = {
        name: value
        for name, value in recorded.items()
        if name in declared and str(value) != str(declared[name].default) and name not in ("node_rank", "world_size")
    }
    if changed.get("data_path"):  # the files in it need no names
        changed = {name: value for name, value in changed.items() if name not in ("train_jsonl", "val_jsonl")}
    return changed


def typed(written: Mapping[str, Any]) -> str:
    """Return the command line as it was given, quoted for a shell."""
    words: Sequence[Any] = listing(written.get("command"))
    return without_credentials(shlex.join(str(word) for word in words))


def settings_table(written: Mapping[str, Any]) -> list[list[str]]:
    """Return the name and the value of every recorded setting, a secret's as "redacted"."""
    hidden = _secrets()
    return [
        [name.upper(), "redacted" if name in hidden else "" if value is None else without_credentials(str(value))]
        for name, value in mapping(written.get("settings")).items()
    ]


def _secrets() -> set[str]:
    return {name for name, declared in settings_module.known_names().items() if declared.secret}
