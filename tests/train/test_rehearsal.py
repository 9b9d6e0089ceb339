"""REHEARSAL: the policy is held to the start model's own answers to general prompts while it learns from complaints."""

import copy

import pytest
import torch
from peft import LoraConfig

from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher
from sdpo.models.general_answers import GENERAL_SAMPLES
from sdpo.runtime.run_directory import RunDirectory
from sdpo.study import run as study
from sdpo.text.hindsight import HINDSIGHT
from sdpo.text.prompts import GENERAL_PROMPTS, REHEARSAL_PROMPTS
from sdpo.tiny.data import posts
from sdpo.tiny.users import OracleUser
from sdpo.train.start_model import GENERAL_FILE, REHEARSAL_FILE, StartModel

LORA = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


class AnyAnswer:
    """Stands for an oracle whose style every answer fits; its general and its rehearsal prompts differ."""

    general_prompts = tuple(row.prompt for row in posts(8, 1, True, "general"))
    rehearsal_prompts = tuple(row.prompt for row in posts(8, 2, False, "rehearsal"))

    def fits(self, completion: str, prompt: str = "") -> bool:
        return True


def start_of(policy, scorer, tokenizer, folder) -> StartModel:
    folder.mkdir(exist_ok=True)
    start = StartModel(scorer, tokenizer, 5, None, HINDSIGHT)
    start.answer_general_prompts(policy, RunDirectory(folder), True, AnyAnswer(), 0)
    start.answer_rehearsal_prompts(policy, RunDirectory(folder), True, AnyAnswer(), 0)
    return start


def test_the_prompts_are_not_those_that_the_distance_is_measured_on():
    assert not set(REHEARSAL_PROMPTS) & set(GENERAL_PROMPTS)


def test_the_loss_is_the_divergence_from_the_start_on_each_answer_in_turn(model, tokenizer, tmp_path):
    start = start_of(model, Teacher("frozen", model), tokenizer, tmp_path / "run")
    assert (tmp_path / "run" / REHEARSAL_FILE).exists() and (tmp_path / "run" / GENERAL_FILE).exists()
    rows = start.rehearsal
    assert rows.prompts != start.general.prompts and len(rows.prompts) == GENERAL_SAMPLES * 8
    assert start.rehearsal_loss(1.0, model, 0).item() == pytest.approx(0.0, abs=1e-6)
    original = copy.deepcopy(model)
    torch.manual_seed(0)
    for weight in model.parameters():
        weight.data += 0.05 * weight.std() * torch.randn_like(weight)
    for turn in range(4):
        expected = []
        for row in [(turn * 5 + index) % 16 for index in range(5)]:
            prompt, completion = rows.prompts[row], rows.completions[row]
            with torch.no_grad():
                p_TV, q_TV = (
                    one(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                    for one in (original, model)
                )
            expected.append((p_TV.exp() * (p_TV - q_TV)).sum(-1).mean().item())
        loss = start.rehearsal_loss(0.5, model, turn)
        assert loss.item() == pytest.approx(0.5 * sum(expected) / 5, rel=1e-3) and loss.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("peft_config", [None, LORA], ids=["all weights", "lora"])
def test_the_policy_stays_nearer_to_the_start_on_other_prompts(peft_config, tmp_path):
    distances = {}
    for weight in (0.0, 3.0):
        trainer = study.build_trainer(
            str(tmp_path / "run"), "frozen", 0, 4, OracleUser({"emoji": False}), Objective(kind="full"), peft_config,
            learning_rate=3e-3 if peft_config else 5e-4,
        )  # fmt: skip
        policy = trainer.accelerator.unwrap_model(trainer.model)
        start = start_of(policy, trainer.start, trainer.processing_class, tmp_path / f"answers{weight}")
        if weight:
            trainer.rehearsal = lambda model, turn, start=start: start.rehearsal_loss(3.0, model, turn)
        trainer.train()
        distances[weight] = start.distance(trainer.model)
    assert 0 < distances[3.0] < 0.7 * distances[0.0]


def test_a_trainer_takes_other_answers_in_each_micro_batch_and_process(tmp_path):
    trainer = study.build_trainer(
        str(tmp_path / "run"), "frozen", 0, 2, OracleUser({"emoji": False}),
        per_device_train_batch_size=4, gradient_accumulation_steps=2,
    )  # fmt: skip
    turns: list[int] = []

    def rehearse(model, turn):
        turns.append(turn)
        return torch.zeros(()) if turn else None

    trainer.rehearsal = rehearse
    trainer.train()
    assert turns == [0, 1, 2, 3]
    # Two steps of two micro-batches: the teacher's forward and the policy's, and two of rehearsal in all but the first.
    assert trainer.record.forwards == 2 * 2 * 2 + 3 * 2
