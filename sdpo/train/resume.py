"""Going on with an interrupted run: its directory is returned to its last checkpoint."""

from pathlib import Path

from sdpo.runtime.run_directory import COMPLETE, RunDirectory
from sdpo.train import guard
from sdpo.train.callbacks import VALIDATION_FILE

_ROWS_BY_STEP = ("metrics.jsonl", "samples.jsonl", VALIDATION_FILE, guard.FILE)


def return_to_last_checkpoint(run_dir: RunDirectory) -> None:
    """Remove what is newer than the last checkpoint that can be resumed, and print what was removed and why."""
    for name in run_dir.remove_incomplete_checkpoints():
        print(f"removed {name}: incomplete checkpoint", flush=True)
    for name, fault in run_dir.set_damaged_checkpoints_aside().items():
        before = "the checkpoint before it" if run_dir.last_checkpoint() else "the start"
        print(f"{name}: {fault}; it cannot be resumed, so the run goes on from {before}", flush=True)
    run_dir.remove_old_interim_checkpoints()
    last = run_dir.last_checkpoint()
    step = int(last.name.rsplit("-", 1)[1]) if last else 0
    for name in _ROWS_BY_STEP:
        run_dir.drop_rows_after(name, step)
    print(f"resuming {run_dir.path} after step {step}", flush=True)


def warn_if_inexact(run_dir: RunDirectory, checkpoint: Path, processes: int) -> None:
    """Print a warning if a run that is resumed cannot give exactly the results of an uninterrupted one."""
    complete = run_dir.read_json(f"{checkpoint.name}/{COMPLETE}") or {}
    before = complete.get("processes", 1)
    if before != processes:
        print(
            f"{checkpoint.name} was saved by {before} process(es), now there are {processes}: weights, optimizer and "
            "data resume exactly, the random numbers for sampling answers do not",
            flush=True,
        )
