"""The user reads one part of a step's answers while the next is generated; no request is repeated, order is kept."""

import threading
import time

import pytest

from sdpo.errors import SimulatorUnavailable
from sdpo.study import run as study
from sdpo.tiny.users import OracleUser
from sdpo.train.online.background_request import BackgroundRequest


def test_background_requests_run_one_after_another_and_pass_on_results_and_errors():
    order, gate = [], threading.Event()

    def slow():
        gate.wait(10)
        order.append("slow")
        return 1

    def failing():
        order.append("failing")
        raise SimulatorUnavailable("no reply")

    first = BackgroundRequest(slow)
    second = BackgroundRequest(failing, after=first)
    third = BackgroundRequest(lambda: order.append("third") or 3, after=second)
    assert order == []
    gate.set()
    assert first.result() == 1 and third.result() == 3
    with pytest.raises(SimulatorUnavailable):
        second.result()
    assert order == ["slow", "failing", "third"]


class SlowUser(OracleUser):
    """Takes `seconds` per call and records time, round and completions of each."""

    def __init__(self, seconds: float) -> None:
        super().__init__({"emoji": False})
        self.seconds, self.calls, self.round = seconds, [], 7

    def react(self, prompts, completions):
        self.calls.append((time.monotonic(), self.round, tuple(completions)))
        time.sleep(self.seconds)
        return super().react(prompts, completions)


def one_step(folder, user, generation_batch, seconds_to_generate):
    """Generate answers and follow-ups for a step of four micro-batches, with a generator that is slow on purpose.

    Returns the trainer, the answers and the times at which generation ended.
    """
    trainer = study.build_trainer(
        str(folder), "live", 0, 1, user, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        generation_batch=generation_batch,
    )  # fmt: skip
    ended = []

    def generate(prompts):
        time.sleep(seconds_to_generate)
        ended.append(time.monotonic())
        ids, _, _ = trainer._tokenize_prompts(prompts)
        texts = [f"answer {len(ended)} {index}" for index in range(len(prompts))]
        return ids, [[5, 6, 7]] * len(prompts), [[{"role": "assistant", "content": text}] for text in texts]

    trainer._generate = generate
    prompts = [row["prompt"] for row in trainer.train_dataset][:8]
    answers = trainer._generate_and_ask(prompts)
    return trainer, answers, ended


def test_the_user_reads_while_the_next_answers_are_generated(tmp_path):
    user = SlowUser(0.3)
    trainer, answers, ended = one_step(tmp_path, user, 2, 0.6)
    assert len(ended) == 4 and len(user.calls) == 4
    # The user got each part before the next was ready; the trainer only waited for the last follow-ups.
    assert all(call[0] < ready for call, ready in zip(user.calls, ended[1:], strict=False))
    waited = trainer.record.seconds["user"]
    assert waited < 4 * 0.3 and trainer.record.seconds["generation"] >= 4 * 0.6
    assert [call[1] for call in user.calls] == [7, 8, 9, 10]
    assert answers.texts == [f"answer {part} {index}" for part in (1, 2, 3, 4) for index in (0, 1)]
    assert [text for call in user.calls for text in call[2]] == answers.texts
    assert len(answers.follow_ups) == len(answers.prompt_ids) == 8


def test_by_default_all_answers_of_a_step_are_generated_and_sent_to_the_user_at_once(tmp_path):
    user = SlowUser(0.0)
    _, _, ended = one_step(tmp_path, user, None, 0.0)
    assert len(ended) == 1 and [len(call[2]) for call in user.calls] == [8]


def test_only_the_part_without_a_reply_is_requested_again(tmp_path):
    class FailsOnce(SlowUser):
        def react(self, prompts, completions):
            follow_ups = super().react(prompts, completions)
            if len(self.calls) == 2:
                raise SimulatorUnavailable("no reply")
            return follow_ups

    user, waits = FailsOnce(0.0), []
    trainer = study.build_trainer(
        str(tmp_path), "live", 0, 1, user, per_device_train_batch_size=2, gradient_accumulation_steps=4,
        generation_batch=2,
    )  # fmt: skip
    trainer.wait_for_user = waits.append
    answers = trainer._generate_and_ask([row["prompt"] for row in trainer.train_dataset][:8])
    assert len(waits) == 1 and len(user.calls) == 5
    rounds = sorted(call[1] for call in user.calls)
    assert rounds == [7, 8, 8, 9, 10]
    assert len(answers.follow_ups) == 8
