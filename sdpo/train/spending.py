"""What the simulated user has cost: in `meter.json` after each step, and on the screen where it costs money."""

from dataclasses import asdict, fields

from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

from sdpo.llm import Client, Total
from sdpo.run import RunDirectory

FILE = "meter.json"


class Spending(TrainerCallback):
    """Adds up the processes' meters. A continued run counts on: its caches hold what was paid before."""

    def __init__(self, run: RunDirectory, trainer: Trainer, client: Client, every: int) -> None:
        self.run, self.trainer, self.client, self.every = run, trainer, client, every
        before = run.read_json(FILE) or {}
        client.total.seconds = before.get("seconds", 0.0)  # the one number that replies do not tell

    def on_step_end(self, args, state, control, **_) -> None:
        """Write the step's totals, and say them every few steps."""
        total = self.write()
        shown = (state.global_step == 1 or state.global_step % self.every == 0) and state.global_step < state.max_steps
        if self.client.meter.price and shown and self.trainer.accelerator.is_main_process:
            print(f"  user so far: {in_words(total, priced=True)}", flush=True)

    def write(self) -> Total:
        """Write what all processes asked so far, and return it. Every process calls it."""
        total = added(gather_object([self.client.total]))
        if self.trainer.accelerator.is_main_process:
            meter = self.client.meter
            cost = round(total.cost, 6) if meter.price else None
            self.run.write_json(FILE, {"model": self.client.backend.model, **asdict(total), "cost": cost})
        return total

    def on_train_end(self, args, state, control, **_) -> None:
        """Say the totals of the whole run."""
        total = self.write()
        if self.trainer.accelerator.is_main_process:
            print(f"user: {in_words(total, self.client.meter.price is not None)}", flush=True)


def added(totals: list[Total]) -> Total:
    """Return the sum of the processes' totals; of the seconds the longest, for they wait at the same time."""
    names = [item.name for item in fields(Total)]
    sums = {name: sum(getattr(total, name) for total in totals) for name in names}
    return Total(**sums | {"seconds": round(max(total.seconds for total in totals), 3)})


def in_words(total: Total, priced: bool) -> str:
    """Return the totals as one line for people."""
    words = f"{total.requests} requests, {total.tokens_in:,} tokens in, {total.tokens_out:,} out, "
    words += f"{total.retries} retries, {total.seconds:.1f} s"
    if total.cached:
        words += f", {total.cached} answered from earlier"
    return words + (f", ${total.cost:.4f}" if priced else "")
