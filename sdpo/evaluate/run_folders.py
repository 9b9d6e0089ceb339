"""The runs that there are: those that RUN_DIR names, the newest one, and what is there instead of a missing one."""

from pathlib import Path

from sdpo.errors import SettingError, command, nearest_first
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import EvalSettings, ReportSettings
from sdpo.settings.checks import folders_in

_MOST = 5  # runs that a message names


def runs_in(scratch: Path, trained: bool = False) -> list[Path]:
    """Return the run directories in SCRATCH: folders with a run.json, with `trained` only those of training jobs."""
    runs = sorted(path.parent for path in scratch.glob("*/*/run.json"))
    if not trained:
        return runs
    jobs = {path: str((RunDirectory(path).read_json("run.json") or {}).get("job")) for path in runs}
    return [path for path in runs if jobs[path].startswith(("train-", "demo"))]


def newest_run(scratch: Path) -> Path | None:
    """Return the most recently started run directory with checkpoints in `scratch`, None if there is none."""
    folders = {path.parent for path in scratch.glob("*/*/checkpoint-*")}
    started = {path: (path / "run.json").stat().st_mtime for path in folders if (path / "run.json").exists()}
    return max(started, key=started.__getitem__, default=None)


def beside(run: Path, folder: Path) -> Path:
    """Return a folder inside of a run in the form, relative or absolute, in which the run is given."""
    inside = run.absolute()
    return run / folder.absolute().relative_to(inside) if folder.absolute().is_relative_to(inside) else folder


def named_runs(settings: EvalSettings | ReportSettings) -> list[Path]:
    """Return the folders in RUN_DIR, none if it is not set.

    Raises SettingError, with the runs that there are, for a folder that does not exist.
    """
    folders = [] if settings.run_dir is None else folders_in(settings.run_dir)
    absent = next((folder for folder in folders if not folder.is_dir()), None)
    if absent is None:
        return folders
    what = "is no folder" if absent.exists() else "does not exist"
    raise SettingError(f"RUN_DIR={absent} {what}. {_instead_of_run(absent, settings)}")


def no_run(settings: EvalSettings | ReportSettings) -> str:
    """Return the message for a job without a run."""
    return f"RUN_DIR is not set, and SCRATCH={settings.scratch} has no run. Create a tiny one with {command('demo')}."


def _instead_of_run(folder: Path, settings: EvalSettings | ReportSettings) -> str:
    """Return a sentence that names the runs in SCRATCH, those with names most like the folder's first."""
    scratch = settings.scratch
    runs = {str(path) for path in runs_in(scratch, trained=isinstance(settings, EvalSettings))}
    if not runs:
        return f"SCRATCH={scratch} has no run either: set SCRATCH to the folder of your runs, or train one first."
    shown = nearest_first(str(folder), runs, _MOST)
    more = f", and {len(runs) - len(shown)} more" if len(runs) > len(shown) else ""
    return f"The runs in {scratch}, nearest names first: {', '.join(shown)}{more}. Give one of them."
