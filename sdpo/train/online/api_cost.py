"""What the simulated user has cost: in `meter.json` after each step, and on the screen if its model has a price."""

from dataclasses import asdict, fields

from accelerate.utils import gather_object
from transformers import TrainerCallback

from sdpo.llm import Client, Usage
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.record import BaseTrainer

FILE = "meter.json"


class ApiCostCallback(TrainerCallback):
    """Adds up the usage of all processes. A resumed run continues the count: its reply caches hold earlier usage."""

    def __init__(self, run: RunDirectory, trainer: BaseTrainer, client: Client, every: int) -> None:
        self.run, self.trainer, self.client, self.every = run, trainer, client, every
        before = run.read_json(FILE) or {}
        client.usage.seconds = before.get("seconds", 0.0)  # the only figure that the reply cache does not hold

    def on_step_end(self, args, state, control, **_) -> None:
        """Write the totals so far, and print them every few steps."""
        usage = self.write()
        shown = (state.global_step == 1 or state.global_step % self.every == 0) and state.global_step < state.max_steps
        if self.client.meter.price and shown and self.trainer.accelerator.is_main_process:
            print(f"  simulated user so far: {describe_usage(usage, priced=True)}", flush=True)

    def write(self) -> Usage:
        """Write the usage of all processes so far and return it; every process calls it."""
        usage = total_usage(gather_object([self.client.usage]))
        if self.trainer.accelerator.is_main_process:
            meter = self.client.meter
            cost = round(usage.cost, 6) if meter.price else None
            self.run.write_json(FILE, {"model": self.client.backend.model, **asdict(usage), "cost": cost})
        return usage

    def on_train_end(self, args, state, control, **_) -> None:
        """Print the totals of the run."""
        usage = self.write()
        if self.trainer.accelerator.is_main_process:
            print(f"simulated user: {describe_usage(usage, self.client.meter.price is not None)}", flush=True)


def total_usage(totals: list[Usage]) -> Usage:
    """Return the sum of the processes' usage; of the seconds the maximum, because processes wait at the same time."""
    names = [item.name for item in fields(Usage)]
    sums = {name: sum(getattr(usage, name) for usage in totals) for name in names}
    return Usage(**sums | {"seconds": round(max(usage.seconds for usage in totals), 3)})


def describe_usage(usage: Usage, priced: bool) -> str:
    """Return the usage as one line of text."""
    text = f"{usage.requests} requests, {usage.tokens_in:,} tokens in, {usage.tokens_out:,} out, "
    text += f"{usage.retries} retries, {usage.seconds:.1f} s"
    if usage.cached:
        text += f", {usage.cached} from the reply cache"
    return text + (f", ${usage.cost:.4f}" if priced else "")
