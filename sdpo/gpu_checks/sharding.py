"""The check of FSDP2: a run sharded over the GPUs there are, against one that is not."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import sdpo
from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.gpu_checks.runs import (
    OFFLINE_JOB,
    ONLINE_JOB,
    ROWS,
    check_all_trained,
    check_steps,
    command,
    rows_of,
    run,
)

FSDP2 = Path(sdpo.__file__).parents[1] / "jobs" / "accelerate" / "fsdp2.yaml"
# A policy in bf16 under FSDP and one in float32 under autocast do not round alike.
TOLERANCE = 0.1


def check_fsdp2(place: Place) -> Figures:
    """Return the figures of sharded runs. Raises CheckFailed unless the first step is that of an unsharded run."""
    count = torch.cuda.device_count()
    alone, sharded = place.folder / "alone", place.folder / "sharded"
    # As many rows a step on one GPU as on all. The rows of a step may come in another order, but they are the same.
    run(command(OFFLINE_JOB, alone, ga=count, train_n=2 * ROWS * count))
    more = {"accelerate_config": FSDP2, "gpus": count, "train_n": 2 * ROWS * count}
    run(command(OFFLINE_JOB, sharded, **more))
    expected, figures = check_steps(alone, 2), check_all_trained(sharded, 2)
    AutoModelForCausalLM.from_pretrained(sharded / "checkpoint-2")
    figures = {"gpus": count, **figures, "signal_size_alone": expected["signal_size"]}
    for name in ("signal_size", "entropy"):
        one, other = rows_of(alone)[0][name], rows_of(sharded)[0][name]
        require(
            abs(one - other) <= TOLERANCE * abs(one),
            f"{name} of the first step is {other:.4g} with FSDP2 and {one:.4g} without",
            figures,
        )
    online = place.folder / "online"
    run(command(ONLINE_JOB, online, **more))
    return figures | {"online": check_all_trained(online, 2)}
