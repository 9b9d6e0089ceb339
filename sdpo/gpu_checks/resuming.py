"""The check that a run which was interrupted and resumed has the weights of one that was not."""

import shutil
from pathlib import Path

from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.gpu_checks.runs import OFFLINE_JOB, ONLINE_JOB, STEPS, change, check_steps, command, run, weights

# The largest difference after the resumed steps, as a share of what these steps changed. On a CPU there is none. On a
# GPU sums are added up in another order each time, and the optimizer divides by small gradients.
TOLERANCE = 0.05


def check_resume(place: Place) -> Figures:
    """Return how far a resumed run is from an uninterrupted one, offline and online."""
    return {
        "offline": _compare(place.folder / "offline", OFFLINE_JOB, after=2),
        # Answers are sampled, so after one step that differs in the last digit some may differ: one step is resumed.
        "online": _compare(place.folder / "online", ONLINE_JOB, after=STEPS - 1),
    }


def _compare(out: Path, job: str, after: int) -> Figures:
    """Return the difference of a run that is resumed after step `after` from the whole run, `out`."""
    run(command(job, out))
    whole = check_steps(out)
    first = weights(out / f"checkpoint-{after}")
    expected = weights(out / f"checkpoint-{STEPS}")
    for name in ("summary.json", "README.md", "training.png"):
        (out / name).unlink(missing_ok=True)
    for step in range(after + 1, STEPS + 1):
        shutil.rmtree(out / f"checkpoint-{step}")
    output = run(command(job, out))
    require(f"after step {after}" in output, f"the run did not resume after step {after}")
    again = check_steps(out)
    difference = change(expected, weights(out / f"checkpoint-{STEPS}")) / change(first, expected)
    figures = {"difference": difference, "same_to_the_bit": difference == 0.0}
    figures |= {"loss": whole["loss"], "loss_resumed": again["loss"]}
    require(
        difference <= TOLERANCE,
        f"the resumed weights are off by {difference:.3g} of what the steps changed, expected {TOLERANCE} at most",
        figures,
    )
    return figures
