"""User calls for one micro-batch while the next is generated, against doing both in sequence.

    python -m benchmarks.overlap [--repeats 3]

The online trainer on the tiny world with gradient accumulation 4. Generation of a micro-batch is slowed down to at
least 2 s; a call of the user takes 1 s.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.variants import compare
from sdpo.models.pretrained import silence_libraries
from sdpo.study import run as study
from sdpo.tiny.users import OracleUser
from sdpo.users.simulator import FollowUp

GENERATE, ANSWER, BATCH, PARTS = 2.0, 1.0, 4, 4


class SlowUser(OracleUser):
    """A user whose calls take ANSWER seconds, for any number of answers."""

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return the follow-ups after ANSWER seconds."""
        time.sleep(ANSWER)
        return super().react(prompts, completions)


class Clock(TrainerCallback):
    """Records the seconds of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Record the seconds since the step began."""
        self.steps.append(time.perf_counter() - self.started)


def slowed(generate: Callable) -> Callable:
    """Return the generation function slowed down to at least GENERATE seconds."""

    def slow(prompts: list) -> tuple:
        started = time.perf_counter()
        generated = generate(prompts)
        time.sleep(max(0.0, GENERATE - (time.perf_counter() - started)))
        return generated

    return slow


def measure(variant: str, repeats: int) -> dict[str, float]:
    """Return the mean seconds of a step, of its generation, of waiting for the user, and of everything else."""
    torch.set_num_threads(2)
    silence_libraries()
    user, clock = SlowUser({"emoji": False}), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = study.build_trainer(
            folder, "frozen", 0, repeats, user, per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=PARTS, generation_batch=BATCH,
        )  # fmt: skip
        trainer._generate = slowed(trainer._generate)
        if variant == "sequential":
            ask = trainer._ask
            replies: list[list[str]] = []
            generate = trainer._generate

            def generate_and_ask(prompts: list) -> tuple:
                generated = generate(prompts)
                texts = [messages[0]["content"] for messages in generated[2]]
                replies.append(ask(0, [prompt[-1]["content"] for prompt in prompts], texts))
                return generated

            trainer._generate = generate_and_ask
            trainer._ask = lambda *_: replies.pop(0)
        trainer.add_callback(clock)
        trainer.train()
    record = trainer.record  # without a MetricsCallback it is never reset, so it sums over all steps
    return {
        "step": sum(clock.steps) / repeats,
        "generation": record.seconds["generation"] / repeats,
        "user": record.seconds["user"] / repeats,
        "training": (sum(clock.steps) - record.seconds["generation"] - record.seconds["user"]) / repeats,
    }


if __name__ == "__main__":
    compare("benchmarks.overlap", __doc__, ("sequential", "overlapped"), measure, repeats=3)
