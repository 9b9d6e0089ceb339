"""The model that a run started from: it stays as it was while the policy trains, and measures how far the policy is."""

import copy
import json
from random import Random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher
from sdpo.models.general_answers import GENERAL_SAMPLES, GENERAL_TOKENS, GeneralAnswers
from sdpo.models.policy import load_model
from sdpo.runtime.run_directory import RunDirectory
from sdpo.study.run import messages_of
from sdpo.text.chat import decode, encode_completion, encode_prompt
from sdpo.text.hindsight import HINDSIGHT, with_hindsight
from sdpo.tiny import MODEL_DIR, language
from sdpo.tiny.data import posts
from sdpo.tiny.users import OracleUser
from sdpo.tiny.world import TinyOracle
from sdpo.train.online.sampling import OnlineConfig
from sdpo.train.online.trainer import OnlineTrainer
from sdpo.train.start_model import GENERAL_FILE, StartModel
from tests.training import session_of, write_model

LORA = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
POSTS = tuple(row.prompt for row in posts(8, 1, True, "general"))


class PickyOracle:
    """Stands for an oracle: its style is fitted by every answer with an even number of words."""

    general_prompts = POSTS

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def fits(self, completion: str, prompt: str = "") -> bool:
        self.read.append((completion, prompt))
        return len(completion.split()) % 2 == 0


def start_of(model, tokenizer, wish=None, batch_size=3) -> StartModel:
    return StartModel(Teacher("frozen", model), tokenizer, batch_size, wish, HINDSIGHT)


def run_in(folder) -> RunDirectory:
    folder.mkdir(exist_ok=True)
    return RunDirectory(folder)


# The distance


def answered(model, tokenizer, folder, oracle=None) -> StartModel:
    start = start_of(model, tokenizer)
    start.answer_general_prompts(model, run_in(folder), True, oracle or PickyOracle(), 0)
    return start


def slow_distance(first, second, general: GeneralAnswers) -> float:
    """KL(first ‖ second) per token, from all logits of one answer at a time."""
    total, tokens = 0.0, 0
    for prompt, completion in zip(general.prompts, general.completions, strict=True):
        with torch.no_grad():
            p_TV, q_TV = (
                model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                for model in (first, second)
            )
        total += (p_TV.exp() * (p_TV - q_TV)).sum().item()
        tokens += len(completion)
    return total / tokens


def test_the_distance_is_zero_at_the_start_and_grows_with_the_weights(model, tokenizer, tmp_path):
    start = answered(model, tokenizer, tmp_path / "run")
    original = copy.deepcopy(model)
    assert start.distance(model) == pytest.approx(0.0, abs=1e-6)
    torch.manual_seed(0)
    noises = [torch.randn_like(weight) * weight.std() for weight in model.parameters()]
    distances = []
    for scale in (0.02, 0.05, 0.1):
        for weight, begin, noise in zip(model.parameters(), original.parameters(), noises, strict=True):
            weight.data = begin.data + scale * noise
        distances.append(start.distance(model))
        assert distances[-1] == pytest.approx(slow_distance(original, model, start.general), rel=1e-3)
    assert 1e-4 < distances[0] < distances[1] < distances[2]


def test_the_distance_leaves_the_policy_as_it_was(model, tokenizer, tmp_path):
    start = answered(model, tokenizer, tmp_path / "run")
    for training in (True, False):
        model.train(training)
        start.distance(model)
        assert model.training is training and all(weight.grad is None for weight in model.parameters())


def test_without_general_answers_there_is_no_distance(model, tokenizer, tmp_path):
    start = start_of(model, tokenizer)
    assert start.distance(model) is None
    # The tiny world has no prompts whose answers its styles leave as they are.
    start.answer_general_prompts(model, run_in(tmp_path / "run"), True, TinyOracle("no_emojis"), 0)
    assert start.distance(model) is None and not (tmp_path / "run" / GENERAL_FILE).exists()


# The general answers


def test_general_answers_that_do_not_fit_the_style_are_left_out(model, tokenizer, tmp_path):
    oracle = PickyOracle()
    general = answered(model, tokenizer, tmp_path / "run", oracle).general
    assert len(oracle.read) == GENERAL_SAMPLES * len(POSTS) and {prompt for _, prompt in oracle.read} == set(POSTS)
    kept = [row for row in oracle.read if len(row[0].split()) % 2 == 0]
    assert 0 < len(kept) < len(oracle.read)
    assert [decode(tokenizer, ids) for ids in general.completions] == [completion for completion, _ in kept]
    encoded = [encode_prompt(tokenizer, [{"role": "user", "content": prompt}]) for _, prompt in kept]
    assert general.prompts == encoded
    assert all(len(ids) <= GENERAL_TOKENS for ids in general.completions)
    # Two samples of one prompt are two answers, not the same one twice.
    texts = [completion for completion, _ in oracle.read]
    assert texts[: len(POSTS)] != texts[len(POSTS) :]
    assert json.loads((tmp_path / "run" / GENERAL_FILE).read_text()) == vars(general)


def test_a_resumed_run_reads_the_general_answers_and_samples_none(model, tokenizer, tmp_path):
    first = answered(model, tokenizer, tmp_path / "run")
    for weight in model.parameters():  # what the resumed policy would now answer is nonsense
        weight.data += 0.3 * torch.randn_like(weight)
    oracle, again = PickyOracle(), start_of(load_model(str(MODEL_DIR))[1], tokenizer)
    again.answer_general_prompts(model, run_in(tmp_path / "run"), True, oracle, 1)
    assert again.general == first.general and oracle.read == []
    assert again.distance(model) == pytest.approx(first.distance(model), rel=1e-4) and again.distance(model) > 0.1


def test_another_process_than_the_main_one_writes_no_file(model, tokenizer, tmp_path):
    start = start_of(model, tokenizer)
    start.answer_general_prompts(model, run_in(tmp_path / "run"), False, PickyOracle(), 0)
    assert start.general.prompts and not (tmp_path / "run" / GENERAL_FILE).exists()


def test_the_wish_is_shown_by_the_template(model, tokenizer):
    messages = messages_of(POSTS[0])
    assert start_of(model, tokenizer).with_wish(messages) == messages
    assert start_of(model, tokenizer, "No emojis.").with_wish(messages) == with_hindsight(
        messages, "No emojis.", HINDSIGHT
    )


# While the policy trains


def trained(folder, teacher_kind: str, peft_config: LoraConfig | None) -> SimpleNamespace:
    """Return a trainer as a session builds it, its start model, and the scores of the start model before two steps."""
    tokenizer, model = load_model(str(MODEL_DIR))
    adapter = peft_config is not None
    teacher = Teacher(teacher_kind, model, rate=0.5, adapter=adapter)
    scorer = teacher if teacher_kind == "frozen" else Teacher("frozen", model, adapter=adapter)
    prompts = [messages_of(row.prompt) for row in posts(16, 5, False, "start")]
    trainer = OnlineTrainer(
        user=OracleUser({"emoji": False}),
        model=model,
        teacher=teacher,
        start=scorer,
        objective=Objective(),
        args=OnlineConfig(
            output_dir=str(folder), learning_rate=1e-3, max_steps=2, per_device_train_batch_size=8, seed=0,
            max_completion_length=48, beta=0.0, use_cpu=True, bf16=False, gradient_checkpointing=False,
            save_strategy="no", report_to=[], disable_tqdm=True, optim="adamw_torch",
        ),
        train_dataset=Dataset.from_list([{"prompt": messages} for messages in prompts]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )  # fmt: skip
    return SimpleNamespace(trainer=trainer, teacher=teacher, start=StartModel(scorer, tokenizer, 3, None, HINDSIGHT))


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["live", "frozen", "ema", "gated"])
def test_the_start_models_scores_do_not_change_while_the_policy_trains(kind, adapter, tmp_path, tokenizer):
    run = trained(tmp_path / "run", kind, LORA if adapter else None)
    rows = posts(4, 1, True, "score")
    contexts = [encode_prompt(tokenizer, messages_of(row.prompt)) for row in rows]
    completions = [encode_completion(tokenizer, language.write_thanks(Random(n))) for n in range(4)]
    policy = run.trainer.model
    run.start.answer_general_prompts(
        run.trainer.accelerator.unwrap_model(policy), run_in(tmp_path / "answers"), True, PickyOracle(), 0
    )
    before, own = run.start.score(contexts, completions), Teacher("live", policy)
    assert run.start.distance(policy) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(own.logps(contexts, completions, 3), before.logps_BT, atol=1e-4, rtol=1e-4)

    run.trainer.train()
    if kind == "ema":
        run.teacher.after_step()
    if kind == "gated":
        run.teacher.refresh()
    after = run.start.score(contexts, completions)
    assert torch.equal(before.logps_BT, after.logps_BT) and torch.equal(before.entropy_BT, after.entropy_BT)
    moved = (own.logps(contexts, completions, 3) - before.logps_BT).abs().max()
    assert moved > 1e-3, "the policy has to train for this test to say anything"
    assert run.start.distance(run.trainer.model) > 1e-6
    if kind != "frozen":
        assert (run.teacher.logps(contexts, completions, 3) - before.logps_BT).abs().max() > 1e-4
    # And the policy's own adapter is enabled again after each measurement.
    again = own.logps(contexts, completions, 3)
    run.start.score(contexts, completions)
    assert torch.equal(own.logps(contexts, completions, 3), again)


CONTRAST = {"objective": "full", "null_contrast": 1, "contrast_plausibility": 0.05, "contrast_strength": 2}


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize(
    ("teacher", "settings", "saved"),
    [("frozen", CONTRAST, True), ("ema", CONTRAST, False), ("frozen", {"objective": "full"}, False)],
)
def test_a_frozen_teachers_hidden_states_save_the_guards_forward_pass(
    adapter, teacher, settings, saved, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    pairs, passes = [], []
    of_hidden, of_pass = StartModel.surprise_of_hidden, StartModel.surprise

    def compared(self, hidden, completions):
        latest = session.trainer.latest
        pairs.append((of_hidden(self, hidden, completions), of_pass(self, latest.messages[:8], latest.completions[:8])))
        return pairs[-1][0]

    def counted(self, messages, completions, shown=False):
        passes.append(shown)
        return of_pass(self, messages, completions, shown)

    monkeypatch.setattr(StartModel, "surprise_of_hidden", compared)
    monkeypatch.setattr(StartModel, "surprise", counted)
    write_model(tmp_path / "model")
    given = {"model": tmp_path / "model", "adapter": adapter, "teacher": teacher, "guard": "warn", "lr": 1e-2}
    session = session_of("train_online_tldr", tmp_path / "run", train_n=12, **given, **settings)
    assert session.run()
    assert len(pairs) == (3 if saved else 0) and passes.count(False) == (0 if saved else 3)
    for hidden, fresh in pairs:
        assert hidden == pytest.approx(fresh, abs=1e-4) and len(hidden) == 4


@pytest.mark.parametrize(("learn_from", "kept"), [("complaints", True), ("all", False)])
def test_follow_ups_are_read_by_the_start_model_also_where_nothing_is_measured_with_it(tmp_path, learn_from, kept):
    given = {"model": write_model(tmp_path / "model"), "guard": "off", "teacher": "live", "learn_from": learn_from}
    session = session_of("train_online_tldr", tmp_path / "run", **given)
    assert (session.start_scorer is not None) == session.settings.needs_start_model == kept
    assert (session.trainer.start is not session.trainer.hindsight.teacher) == kept
