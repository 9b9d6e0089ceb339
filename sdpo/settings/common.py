"""The settings that every job, every run and every launch has."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdpo.settings.checks import existing_file, plain_name
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Every job."""

    seed: int = setting(42, "the seed of everything random", at_least=0, below=2**32)
    tiny: bool = setting(False, "run the whole job with the shipped tiny model and data, in minutes on a CPU")
    dry_run: bool = setting(False, "check all that can be checked, print settings and commands, do nothing")
    hf_token: str | None = setting(None, "for models and data that the hub gives only to some", secret=True)

    # Not a setting: name -> where its value came from.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class JobSettings(CommonSettings):
    """Every job with a run folder."""

    run_id: str | None = setting(
        None, "the run's name instead of the date; the same name continues that run", check=plain_name
    )
    scratch: Path = setting(Path("runs"), "the folder that run folders are put in")
    output_dir: Path | None = setting(None, "the run's folder, instead of the one in SCRATCH")
    wandb_api_key: str | None = setting(None, "tracks online; without it, offline", secret=True)
    anthropic_api_key: str | None = setting(None, "for jobs that ask Claude", secret=True)


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(JobSettings):
    """Processes and devices."""

    world_size: int = setting(1, "the number of processes on all nodes, one per GPU", at_least=1, alias="gpus")
    nnodes: int = setting(1, "the number of machines that the same command is started on", at_least=1)
    node_rank: int = setting(0, "which of them this is, from 0", at_least=0)
    master_addr: str | None = setting(None, "the address of machine 0")
    master_port: int = setting(29500, "a port of machine 0 that is free", at_least=1, below=65536)
    accelerate_config: Path | None = setting(
        None, "an accelerate config file to launch with, instead of the shipped ones", check=existing_file
    )

    @property
    def processes_here(self) -> int:
        """How many of the processes run on this machine."""
        return self.world_size // self.nnodes
