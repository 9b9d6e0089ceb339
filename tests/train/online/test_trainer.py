"""The online trainer in this process: its forwards, steps and teachers, and whether it learns."""

import pytest
import torch
from peft import LoraConfig
from trl import RLOOTrainer

from benchmarks.counting import counted_passes
from sdpo.errors import RunError
from sdpo.method.objective import Objective
from sdpo.method.scoring import score
from sdpo.models.policy import load_model
from sdpo.models.prompt_cache import CacheKeeper
from sdpo.runtime.run_directory import RunDirectory
from sdpo.study import run as study
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.users import OracleUser
from sdpo.train.callbacks import OF_ANSWERS, MetricsCallback
from sdpo.train.guard import CollapseGuard

pytestmark = pytest.mark.slow


def trained(folder, steps: int = 2, teacher: str = "live", **config) -> study.OnlineTrainer:
    """Return the trainer after a short run with a rule-based user."""
    trainer = study.build_trainer(str(folder), teacher, 0, steps, OracleUser({"emoji": False}), **config)
    trainer.train()
    return trainer


@pytest.mark.parametrize("teacher", ["live", "frozen"])
def test_a_micro_batch_takes_exactly_two_forwards(tmp_path, teacher):
    trainer = study.build_trainer(
        str(tmp_path), teacher, 0, 2, OracleUser({"emoji": False}), gradient_accumulation_steps=2,
        per_device_train_batch_size=8,
    )  # fmt: skip
    counted, generated = [], []
    models = {trainer.model, trainer.hindsight.teacher._model}
    for model in models:
        model.model.register_forward_pre_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    generate = trainer._generate

    def generate_uncounted(prompts):
        before = len(counted)
        result = generate(prompts)
        del counted[before:]
        generated.append(len(prompts))
        return result

    trainer._generate = generate_uncounted
    trainer.train()
    # Once: whether the attention takes trees (3), and whether it takes the cache that generation leaves (2).
    checks = 5 if teacher == "live" else 0
    # Two steps of two micro-batches: the teacher's forward without gradient, the policy's with it.
    assert generated == [16, 16] and sorted(counted) == [False] * (4 + checks) + [True] * 4


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_live_teacher_does_not_run_the_prompts_again(tmp_path, monkeypatch, dropout):
    plain = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "per_device_train_batch_size": 4}
    adapter = LoraConfig(target_modules="all-linear", r=4, lora_dropout=dropout) if dropout else None
    trainers, tokens = [], []
    for keeps in (True, False):
        if not keeps:
            monkeypatch.setattr(CacheKeeper, "take", lambda self, prompts: None)
        trainer = study.build_trainer(
            str(tmp_path), "live", 0, 2, OracleUser({"emoji": False}), peft_config=adapter, **plain
        )
        targets = trainer.hindsight.teacher_targets

        def counted(*arguments, model=trainer.model, targets=targets):
            with counted_passes(model) as passes:
                result = targets(*arguments)
            tokens.append(passes.tokens)
            return result

        trainer.hindsight.teacher_targets = counted
        trainer.train()
        trainers.append(trainer)
    (_, with_cache), (_, without) = tokens[:2], tokens[2:]  # the first step is checked
    assert with_cache == without if dropout else with_cache < 0.7 * without
    start = load_model(str(MODEL_DIR))[1]
    if not dropout:
        for begin, one, other in zip(start.parameters(), *(each.model.parameters() for each in trainers), strict=True):
            moved = (one - begin).abs().max()
            assert moved > 0 and (one - other).abs().max() < 1e-3 * moved


@pytest.mark.parametrize("bf16", [False, True])
def test_continuous_batching_answers_each_prompt_and_leaves_the_weights(tmp_path, bf16):
    trainer = study.build_trainer(
        str(tmp_path), "live", 0, 1, OracleUser({"emoji": False}), use_transformers_continuous_batching=True,
        bf16=bf16, per_device_train_batch_size=4,
        transformers_continuous_batching_config={"num_blocks": 16, "max_batch_tokens": 2048},
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    prompts = [row["prompt"] for row in trainer.train_dataset.select(range(4))]
    torch.manual_seed(3)
    prompt_ids, completion_ids, _ = trainer._generate(prompts)
    assert trainer._generate(prompts)[1] != completion_ids
    torch.manual_seed(3)
    assert trainer._generate(prompts)[1] == completion_ids
    assert len(completion_ids) == 4 and all(completion_ids)
    for name, weight in trainer.model.named_parameters():
        assert weight.dtype == torch.float32 and torch.equal(weight, before[name])
    # Likely answers to their own prompts, and not to each other's.
    own = score(trainer.model, prompt_ids, completion_ids).logps_BT.sum(1)
    others = score(trainer.model, prompt_ids[1:] + prompt_ids[:1], completion_ids).logps_BT.sum(1)
    assert (own > others).all()


def test_an_engine_that_returns_no_tokens_ends_the_run_in_one_line(tmp_path, monkeypatch):
    trainer = study.build_trainer(str(tmp_path), "live", 0, 2, OracleUser({"emoji": False}))
    monkeypatch.setattr(RLOOTrainer, "_generate_single_turn", lambda self, prompt_ids, *_: [[5]] + [[]] * 3)
    with pytest.raises(RunError, match=r"3 of 4 answers came back without a token.*GENERATION=transformers"):
        trainer.train()


def test_gradient_accumulation_equals_one_batch(tmp_path):
    # Plain gradient descent without clipping: a step of Adam would hide a gradient of the wrong scale.
    plain = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0}
    one_batch = trained(tmp_path / "a", per_device_train_batch_size=16, **plain)
    parts = trained(tmp_path / "b", per_device_train_batch_size=4, gradient_accumulation_steps=4, **plain)
    start = load_model(str(MODEL_DIR))[1]
    weights = zip(start.parameters(), one_batch.model.parameters(), parts.model.parameters(), strict=True)
    for begin, one, other in weights:
        moved = (one - begin).abs().max()
        assert moved > 0 and (one - other).abs().max() < 1e-3 * moved


def test_a_second_optimizer_pass_reuses_the_answers(tmp_path):
    calls = []

    class Counting(OracleUser):
        def react(self, prompts, completions):
            calls.append(len(completions))
            return super().react(prompts, completions)

    trainer = study.build_trainer(str(tmp_path), "live", 0, 4, Counting({"emoji": False}), num_iterations=2)
    trainer.train()
    assert calls == [16, 16]


@pytest.mark.parametrize("objective", [Objective(), Objective(kind="full")], ids=["token", "full"])
def test_the_metrics_of_a_further_pass_are_those_of_the_same_answers(objective, tmp_path):
    trainer = study.build_trainer(
        str(tmp_path / "run"), "frozen", 0, 4, OracleUser({"emoji": False}), objective, num_iterations=2
    )
    (tmp_path / "run").mkdir(exist_ok=True)
    run = RunDirectory(tmp_path / "run")
    trainer.add_callback(MetricsCallback(run, trainer, 0, lambda prompts, completions: {"words": len(prompts)}))
    trainer.train()
    rows = run.read_rows("metrics.jsonl")
    assert [row["interactions"] for row in rows] == [16, 16, 32, 32]
    for first, second in (rows[:2], rows[2:]):
        assert second["words"] == first["words"] == 16
        assert {name: first[name] for name in OF_ANSWERS} == {name: second[name] for name in OF_ANSWERS}
        assert second["loss"] != first["loss"] and second["forwards"] < first["forwards"]
    assert rows[0]["completion_tokens"] != rows[2]["completion_tokens"]


def test_a_frozen_teacher_is_the_initial_policy_and_a_live_one_the_current(tmp_path):
    contexts, completions = [[5, 6, 7]], [[8, 9, 10]]
    scores = {}
    for kind in ("frozen", "live"):
        trainer = study.build_trainer(str(tmp_path), kind, 0, 2, OracleUser({"emoji": False}), learning_rate=1e-3)
        before = trainer.hindsight.teacher.logps(contexts, completions, 1)
        trainer.train()
        policy = score(trainer.model, contexts, completions).logps_BT
        scores[kind] = before, trainer.hindsight.teacher.logps(contexts, completions, 1), policy
    assert torch.equal(scores["frozen"][0], scores["frozen"][1])
    assert not torch.allclose(scores["frozen"][1], scores["frozen"][2], atol=1e-4)
    torch.testing.assert_close(scores["live"][1], scores["live"][2])


# Learning, as measured by the oracle.


@pytest.mark.parametrize("pair", ["frozen full/reverse+focus", "live token"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_trainer_learns_the_style_and_changes_nothing_else(pair, seed):
    start, end = study.train(*pair.split(" "), seed, points=(480,))
    assert 0.35 < start["adherence"] < 0.65
    assert end["adherence"] >= 0.95 and end["validity"] >= 0.9
    if pair.startswith("frozen"):
        assert end["validity"] >= 0.95
        assert all(abs(end["axes"][axis] - start["axes"][axis]) <= 0.10 for axis in ("casual", "long"))


def test_without_a_follow_up_that_moves_an_answer_no_weight_changes(tmp_path):
    objective = Objective(kind="full", focus=100.0)
    trainer = study.build_trainer(str(tmp_path), "frozen", 0, 3, OracleUser({"emoji": False}), objective)
    trainer.train()
    start = load_model(str(MODEL_DIR))[1]
    for before, after in zip(start.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(("taught", "weight"), [(0, 0.0), (1, 4.0), (3, 4.0), (8, 2.0), (16, 1.0)])
def test_moved_answers_are_weighted_as_at_least_a_quarter_of_the_step(taught, weight, tmp_path, monkeypatch):
    objective = Objective(kind="full", focus=study.FOCUS)
    trainer = study.build_trainer(str(tmp_path), "frozen", 0, 1, OracleUser({"emoji": False}), objective)
    teacher_targets, loss, seen = trainer.hindsight.teacher_targets, trainer.hindsight.loss, []

    def only_first_rows_moved(*arguments):
        targets = teacher_targets(*arguments)
        for row, target in enumerate(targets):
            target.moved_T = torch.full_like(target.moved_T, row < taught)
        return targets

    def recording_weights(model, contexts, completions, targets, weights_B, *more):
        seen.append(sorted(weights_B.tolist(), reverse=True))
        return loss(model, contexts, completions, targets, weights_B, *more)

    monkeypatch.setattr(trainer.hindsight, "teacher_targets", only_first_rows_moved)
    monkeypatch.setattr(trainer.hindsight, "loss", recording_weights)
    trainer.train()
    assert seen == [[weight] * taught + [0.0] * (16 - taught)]


def test_unrelated_follow_ups_change_nothing_with_a_frozen_teacher():
    start, end = study.train("frozen", "token", 0, related=False, points=(480,))
    assert all(abs(end["axes"][axis] - start["axes"][axis]) <= 0.10 for axis in end["axes"])


def test_the_guard_measures_each_batch_of_answers_once(tmp_path):
    trainer = study.build_trainer(
        str(tmp_path / "run"), "frozen", 0, 8, OracleUser({"emoji": False}), Objective(kind="full"), num_iterations=2
    )
    (tmp_path / "run").mkdir(exist_ok=True)
    run = RunDirectory(tmp_path / "run")
    metrics = MetricsCallback(run, trainer, 0, None)
    trainer.add_callback(metrics)
    trainer.add_callback(CollapseGuard(run, trainer, lambda: metrics.row, lambda: trainer.latest, True, True))
    trainer.train()
    rows = run.read_rows("guard.jsonl")
    assert [(row["step"], row["interactions"]) for row in rows] == [(1, 16), (3, 32), (5, 48), (7, 64)]
    assert ["kl" in row["measures"] for row in rows] == [False, False, True, False]
