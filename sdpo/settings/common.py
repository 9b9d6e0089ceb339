"""The settings shared by all jobs, by jobs with a run directory, and by jobs that launch several processes."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from sdpo.settings.checks import existing_file, plain_name
from sdpo.settings.declare import setting

Template = Literal["earlier_turn", "system", "before", "after", "framed"]  # the names in HINDSIGHT_TEMPLATES

# Further names of MODEL, which every job with a model takes. The first is online training's own, the second offline
# training's: in a .env with both, each of these jobs reads its own.
MODEL_ELSEWHERE = ("model_name_or_path", "base_model")


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """All jobs."""

    seed: int = setting(42, "the random seed", at_least=0, below=2**32)
    tiny: bool = setting(False, "run the complete job with the shipped tiny model and data, in minutes on a CPU")
    dry_run: bool = setting(False, "run all checks, print settings and commands, do and write nothing")
    hf_token: str | None = setting(None, "for gated models and datasets on the Hugging Face hub", secret=True)

    # Not a setting: setting name -> source of its value.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def derived(self, source: str, **values: Any) -> Self:
        """Return the settings with these values, which are said to be from `source`."""
        return replace(self, sources={**self.sources, **dict.fromkeys(values, source)}, **values)


@dataclass(frozen=True, kw_only=True)
class JobSettings(CommonSettings):
    """Jobs with a run directory."""

    run_id: str | None = setting(
        None, "the name of the run, instead of the date; the same name resumes that run", check=plain_name
    )
    scratch: Path = setting(Path("runs"), "the folder that holds the run directories")
    output_dir: Path | None = setting(None, "the run directory, instead of one in SCRATCH")
    wandb_api_key: str | None = setting(None, "track the run online; without it tracking is offline", secret=True)
    anthropic_api_key: str | None = setting(None, "for jobs that use Claude", secret=True)

    @property
    def run_directory_path(self) -> Path:
        """The run directory, which the launcher fills in. Raises RuntimeError before that."""
        if self.output_dir is None:
            raise RuntimeError("the launcher has not filled in output_dir yet")
        return self.output_dir

    @property
    def run_name(self) -> str:
        """The run's name (`run_id`), which the launcher fills in. Raises RuntimeError before that."""
        if self.run_id is None:
            raise RuntimeError("the launcher has not filled in run_id yet")
        return self.run_id


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(JobSettings):
    """Processes and devices."""

    world_size: int = setting(1, "the number of processes on all nodes, one per GPU", at_least=1, alias="gpus")
    nnodes: int = setting(1, "the number of nodes (machines) that run the same command", at_least=1)
    node_rank: int = setting(0, "the rank of this node, from 0", at_least=0)
    master_addr: str | None = setting(None, "the address of node 0")
    master_port: int = setting(29500, "a free port of node 0", at_least=1, below=65536)
    accelerate_config: Path | None = setting(
        None, "an accelerate config file to launch with, instead of the shipped ones", check=existing_file
    )

    @property
    def processes_here(self) -> int:
        """The number of processes on this node."""
        return self.world_size // self.nnodes

    @property
    def is_launched(self) -> bool:
        """Whether the job runs under `accelerate launch` instead of in the process that it was started in."""
        return self.world_size != 1 or bool(self.accelerate_config)
