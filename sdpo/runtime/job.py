"""What a job is. Importing this is cheap."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.errors import command
from sdpo.runtime.loading import load
from sdpo.settings import CommonSettings, JobSettings
from sdpo.users.styles import own_styles

if TYPE_CHECKING:
    from sdpo.users.oracle import Oracle


@dataclass(frozen=True, kw_only=True)
class Job:
    """One experiment: its settings and defaults, and the function that runs it.

    The functions are given as "module:function", imported when needed and called with the settings and the job.
    Before any heavy work, and without importing torch: `become` returns the job to run instead of this one, `fill`
    returns the settings with unset values filled in, and `check` raises if they cannot be used; it may return lines on
    what the data hold, which a dry run shows. `run` returns an exit code or None. `report` is called with the run
    directory when the run has ended, however it ended. `plan` is the module that plans the job: a dry run adds its
    `dry_run_lines`, a run begins with its `warning`. `instead`, if given, is all that is called: no checks, no
    processes, no run directory.
    `oracles` are "module:class" of what measures styles exactly; the first that reads the model and the style is used.
    A job that `serves` runs until it is ended and shows no progress.
    """

    name: str
    summary: str
    settings: type[CommonSettings]
    run: str
    folder: str = ""
    check: str | None = None
    fill: str | None = None
    become: str | None = None
    report: str | None = None
    plan: str | None = None
    instead: str | None = None
    oracles: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)
    needs_simulator: bool = False
    data_target: str = ""
    system_prompt: str = ""
    prompt_suffix: str = ""
    module: str = ""
    serves: bool = False

    @property
    def data_command(self) -> str:
        """The command that writes the job's data."""
        return command(self.data_target)

    def run_directory(self, settings: JobSettings) -> Path | None:
        """Return the run directory that the settings name, None if only the date will name it."""
        if settings.output_dir is None and settings.run_id is None:
            return None
        return Path(os.path.abspath(settings.output_dir or settings.scratch / self.folder / settings.run_name))

    def find_oracle(self, model: str, style: str | None, style_file: Path | None = None) -> "Oracle | None":
        """Return the oracle that measures the style of this model's answers, None if there is none.

        Its general prompts are in the model's language, also where a rule reads the answers of any model.
        Raises SettingError if the style does not exist in the model's world, nor in the file.
        """
        if style is None:
            return None
        own = own_styles(style_file).get(style)
        classes = [load(reference) for reference in self.oracles]
        found = next((oracle(style, own) for oracle in classes if oracle.reads(model, style, own)), None)
        if found is not None:
            world = next(oracle for oracle in classes if oracle.speaks(model))
            found.general_prompts, found.open_prompts = world.general_prompts, world.open_prompts
            found.rehearsal_prompts = world.rehearsal_prompts
        return found

    @property
    def module_name(self) -> str:
        """The module to start with `python -m`."""
        return self.module or f"jobs.{self.name.replace('-', '_')}"
