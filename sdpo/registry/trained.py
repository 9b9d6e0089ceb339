"""A training run that becomes a version: which of its checkpoints, and what its evaluation says about that one.

Importing this is cheap.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.errors import RunError, SettingError
from sdpo.evaluate.release import FILE as RELEASE
from sdpo.evaluate.release_rules import KEEP
from sdpo.evaluate.trained_run import TrainedRun, read_run, without_checkpoint
from sdpo.registry.live import read_live
from sdpo.registry.versions import KeptBack, Version, add
from sdpo.runtime.commands import command
from sdpo.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from sdpo.settings import PromoteSettings


@dataclass(frozen=True)
class Candidate:
    """A checkpoint of a run with the verdict on it, which is empty if it was not evaluated."""

    run: TrainedRun
    base: str
    step: int
    folder: Path
    verdict: dict[str, Any]

    @property
    def name(self) -> str:
        """The checkpoint with its run."""
        return f"checkpoint-{self.step} of {self.run.path}"


def candidate_of(settings: "PromoteSettings") -> Candidate | None:
    """Return the checkpoint of RUN_DIR to promote, None if that is not set. Writes nothing.

    It is that of CKPT, else the one that the run's evaluation chose, else the last one that it compared, else the last
    good one. Raises SettingError for settings that contradict each other or a CKPT that the run does not have, RunError
    if RUN_DIR is not a run or has no good checkpoint, KeptBack if no verdict lets the checkpoint go live and FORCE is
    not set.
    """
    if settings.run_dir is None:
        if settings.ckpt is not None:
            raise SettingError("CKPT is for RUN_DIR, the run that has the checkpoint. Set that, or leave it out.")
        return None
    if settings.version is not None:
        raise SettingError("RUN_DIR makes a new version, and VERSION names one of the registry. Give one of them.")
    run = read_run(settings.run_dir)
    if run.model is None:
        raise RunError(f"{run.path} did not record the model that it started from, so it is not a training run.")
    complete, release = run.checkpoints(), _release_of(run.path)
    step = _step(run, list(complete), release, settings.ckpt)
    found = Candidate(run, run.model, step, complete[step], _verdict_on(step, release))
    if not settings.force and found.verdict.get("verdict", KEEP) == KEEP:
        why = found.verdict.get("sentence") or (
            f"it has no evaluation in {run.path / 'eval'}. Evaluate it: "
            + command("eval", run_dir=run.path, tiny=run.settings.get("tiny"))
        )
        raise KeptBack(f"{found.name} has no verdict that lets it go live: {why}. FORCE=1 promotes it.")
    return found


def register(settings: "PromoteSettings", candidate: Candidate) -> Version:
    """Add the checkpoint to the registry and return its version; if it is there already, with its newest verdict."""
    run, live = candidate.run, read_live(settings.registry)
    rows = RunDirectory(run.path).read_rows("metrics.jsonl")
    version = add(
        settings.registry, candidate.folder, candidate.base, run=run.path, checkpoint=candidate.step,
        verdict=candidate.verdict, data={"interactions": rows[-1].get("interactions") if rows else None},
    )  # fmt: skip
    print(f"{candidate.name} is {version.name}", flush=True)
    if candidate.verdict and live.version not in (None, version.name):
        print(f"note: its evaluation compared it with its BASELINE, not with {live.version}, which is live", flush=True)
    return version


def _step(run: TrainedRun, steps: list[int], release: dict[str, Any], asked: int | None) -> int:
    """Return the step of the checkpoint to promote."""
    if not steps:
        raise RunError(f"{run.path} has no complete checkpoint. {without_checkpoint(run)}")
    if asked is not None and asked not in steps:
        raise SettingError(
            f"CKPT={asked}: {run.path} has no complete checkpoint of that step. It has {', '.join(map(str, steps))}."
        )
    good = [step for step in steps if step not in run.warned_steps()]
    if asked is None and not good:
        raise RunError(f"the guard stopped {run.path} and had warned of every checkpoint: none is good to use.")
    if asked is not None:
        return asked
    evaluated = [release.get("checkpoint"), *sorted(_releases(release), reverse=True), good[-1]]
    return next(step for step in evaluated if step in steps)


def _release_of(path: Path) -> dict[str, Any]:
    """Return the release.json of the run's newest evaluation, empty if it has none."""
    folder = path / "eval"
    files = sorted([*folder.glob(RELEASE), *folder.glob(f"*/{RELEASE}")], key=lambda file: file.stat().st_mtime)
    return RunDirectory(files[-1].parent).read_json(RELEASE) or {} if files else {}


def _verdict_on(step: int, release: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict of an evaluation on the checkpoint of this step; empty if that was not evaluated."""
    if release.get("checkpoint") == step:
        return {name: release[name] for name in ("verdict", "checkpoint", "sentence")}
    one = _releases(release).get(step)
    if one is None:
        return {}
    reasons = f" ({'; '.join(one['reasons'])})" if one["reasons"] else ""
    return {"verdict": one["verdict"], "checkpoint": step, "sentence": f"{one['verdict']}: checkpoint-{step}{reasons}"}


def _releases(release: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return what an evaluation says about each checkpoint that it compared, by step."""
    return {one["checkpoint"]: one for one in release.get("releases") or []}
