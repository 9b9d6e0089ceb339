"""A step whose users read one part of the answers while the next is generated, against one after another.

    python -m benchmarks.overlap [--repeats 3]

The online trainer on the tiny world, accumulation 4: generating a micro-batch is made to take 2 s at least, a call of
the user takes 1 s.
"""

import tempfile
import time
from collections.abc import Callable

import torch
from transformers import TrainerCallback

from benchmarks.variants import compare
from sdpo.models.pretrained import silence_libraries
from sdpo.study import run as study
from sdpo.tiny.users import OracleUser

GENERATE, ANSWER, BATCH, PARTS = 2.0, 1.0, 4, 4


class SlowUser(OracleUser):
    """Takes its time over a call, however many answers it is shown."""

    def react(self, prompts, completions):
        """Return the follow-ups after a second."""
        time.sleep(ANSWER)
        return super().react(prompts, completions)


class Clock(TrainerCallback):
    """Keeps how long each step took."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        """Stop the clock."""
        self.steps.append(time.perf_counter() - self.started)


def slowed(generate: Callable) -> Callable:
    """Return a generator of answers that takes GENERATE seconds at least."""

    def slow(prompts: list) -> tuple:
        started = time.perf_counter()
        found = generate(prompts)
        time.sleep(max(0.0, GENERATE - (time.perf_counter() - started)))
        return found

    return slow


def measure(variant: str, repeats: int) -> dict[str, float]:
    """Return the mean seconds of a step, of its generation, of waiting for the user, and of all else."""
    torch.set_num_threads(2)
    silence_libraries()
    user, clock = SlowUser({"emoji": False}), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = study.build_trainer(
            folder, "frozen", 0, repeats, user, per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=PARTS, generation_batch=BATCH,
        )  # fmt: skip
        trainer._generate = slowed(trainer._generate)
        if variant == "one after another":
            ask = trainer._ask
            replies: list[list[str]] = []
            generate = trainer._generate

            def generate_and_ask(prompts: list) -> tuple:
                found = generate(prompts)
                texts = [messages[0]["content"] for messages in found[2]]
                replies.append(ask(0, [prompt[-1]["content"] for prompt in prompts], texts))
                return found

            trainer._generate = generate_and_ask
            trainer._ask = lambda *_: replies.pop(0)
        trainer.add_callback(clock)
        trainer.train()
    record = trainer.record  # nobody takes it here: it adds up all steps
    return {
        "step": sum(clock.steps) / repeats,
        "generation": record.seconds["generation"] / repeats,
        "user": record.seconds["user"] / repeats,
        "training": (sum(clock.steps) - record.seconds["generation"] - record.seconds["user"]) / repeats,
    }


if __name__ == "__main__":
    compare("benchmarks.overlap", __doc__, ("one after another", "ours"), measure, repeats=3)
