"""What a training job will take, from its settings: memory, hours, money and disk, without loading a model."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

from jobs import train_online_tldr
from sdpo.errors import SettingError, command, nearest
from sdpo.runtime.launch import main

TRAINING = (
    "train-online-tldr",
    "train-online-helpsteer",
    "train-offline",
    "train-offline-wildfeedback",
    "train-offline-wildchat",
    "demo-real",
)
DEFAULT = "train-online-tldr"
# Not JOB: by itself it is not one, but how the job that is named is run.
LISTED = replace(
    train_online_tldr.JOB,
    name="plan",
    summary="what a training job will take, without loading a model (JOB=train-offline and its settings)",
    instead="sdpo.plan.job:run",
)


def plan(arguments: Sequence[str]) -> int:
    """Plan the job that `--job` or the environment variable JOB names, with its settings; return the exit code."""
    named = "--job" in arguments or any(word.startswith(("--job=", "JOB=")) for word in arguments)
    if {"-h", "--help"} & set(arguments) and not (named or os.environ.get("JOB", "").strip()):
        print(_help())
        return 0
    try:
        name, others = _job(arguments)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return SettingError.exit_code
    job = _module(name).JOB
    return main(replace(job, instead="sdpo.plan.job:run"), others)


def _job(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the job to plan and the other arguments. Raises SettingError for an unknown job."""
    others, name = list(arguments), os.environ.get("JOB", "").strip() or DEFAULT
    if "--job" in others:
        at = others.index("--job")
        name = others[at + 1] if at + 1 < len(others) else ""
        del others[at : at + 2]
    for word in [other for other in others if other.startswith(("--job=", "JOB="))]:
        name = word.partition("=")[2]
        others.remove(word)
    if name not in TRAINING:
        raise SettingError(f"JOB={name} is no training job.{nearest(name, TRAINING)} They are {', '.join(TRAINING)}.")
    return name, others


def _help() -> str:
    """Return what to give: the jobs that can be planned, and where their settings are listed."""
    summaries = {name: _module(name).JOB.summary for name in TRAINING}
    width = max(map(len, TRAINING))
    return "\n".join(
        [
            f"usage: {command('plan')} JOB=name [SETTING=value ...]",
            "       python -m jobs.plan --job name [--setting value ...]",
            "",
            "What a training job will take, without loading a model: memory, hours, money and disk.",
            f"The jobs that can be planned, {DEFAULT} unless another is named:",
            "",
            *(f"  {name:{width}}  {summary}" for name, summary in summaries.items()),
            "",
            "Its settings are those of the job: python -m jobs.plan --job train-offline --help lists them.",
            f"  {command('plan')} JOB=train-offline MODEL=Qwen/Qwen3-8B GPUS=1 ADAPTER=lora",
        ]
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"jobs.{name.replace('-', '_')}")


if __name__ == "__main__":
    raise SystemExit(plan(sys.argv[1:]))
