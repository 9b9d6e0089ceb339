"""The settings of `report`."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path

from sdpo.settings.checks import folder_words, folders_in
from sdpo.settings.common import CommonSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class ReportSettings(CommonSettings):
    """The report."""

    run_dir: Path | None = setting(
        None,
        "the folder of a training run, an evaluation or make learn, or several; if not set, the newest run in SCRATCH",
        check=folder_words,
    )
    report_file: Path | None = setting(
        None,
        "the page to write, or a folder for it; if not set, report.html in the folder, for several folders in SCRATCH",
    )
    scratch: Path = setting(Path("runs"), "the folder that holds the run directories")

    @property
    def run_dirs(self) -> list[Path]:
        """The folders to report on; empty if RUN_DIR is not set."""
        return [] if self.run_dir is None else folders_in(self.run_dir)
