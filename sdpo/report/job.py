"""The job of the report: its check, and the page."""

from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.evaluate.run_folders import named_runs, newest_run, no_run
from sdpo.report import write_report
from sdpo.report.folder import FILE, read_folder
from sdpo.runtime.ending import say
from sdpo.runtime.evaluation import next_evaluation
from sdpo.runtime.launch import check_writable
from sdpo.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import ReportSettings


def check(settings: "ReportSettings", job: "Job") -> None:
    """Raise SdpoError if there is nothing to report on or no place to write the page. Writes nothing."""
    folders = folders_of(settings)
    if not folders:
        if settings.dry_run:
            print(f"note: {no_run(settings)}\n")
            return
        raise SettingError(no_run(settings))
    for folder in folders:
        read_folder(folder)
    check_writable(_page(settings, folders).parent, "REPORT_FILE")


def run(settings: "ReportSettings", job: "Job") -> None:
    """Write the page and print where it is. Raises RunError for a folder without any file of a run."""
    folders = folders_of(settings)
    page = _page(settings, folders)
    page.parent.mkdir(parents=True, exist_ok=True)
    files = {"report": write_report(*folders, path=page)}
    names = ", ".join(folder.resolve().name for folder in folders)
    unread = [folder for folder in folders if any(folder.glob("checkpoint-*")) and not any(folder.glob("eval*"))]
    say(f"One page about {names}.", files, *(next_evaluation(RunDirectory(unread[0])) if unread else ()))


def folders_of(settings: "ReportSettings") -> list[Path]:
    """Return the folders to report on: those of RUN_DIR, else the newest run or night; empty if there is none.

    Raises SettingError for one that does not exist.
    """
    if named := named_runs(settings):
        return named
    run = newest_run(settings.scratch)
    nights = [path.parent for path in settings.scratch.glob("learn/*/run.json")]
    found = [*([run] if run else []), *nights]
    return [max(found, key=lambda path: (path / "run.json").stat().st_mtime)] if found else []


def _page(settings: "ReportSettings", folders: list[Path]) -> Path:
    file = settings.report_file
    if file is None:
        return (folders[0] if len(folders) == 1 else settings.scratch) / FILE
    if file.is_dir():
        return file / FILE
    if file.suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"REPORT_FILE={file} is no page. Give a file that ends in .html, or a folder that exists.")
    return file
