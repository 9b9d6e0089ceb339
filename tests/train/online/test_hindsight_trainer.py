"""HindsightTrainer as one's own script uses it: it learns, does what the job does, resumes, and says what is wrong."""

import asyncio
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from safetensors.torch import load_file

from sdpo import HindsightConfig, HindsightTrainer
from sdpo.errors import RecordError, SettingError, UserFailed
from sdpo.models.policy import load_model
from sdpo.progress import display
from sdpo.settings.recipes import RECIPES
from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.text.records import read_prompts
from sdpo.tiny import MODEL_DIR, WORLD_DIR
from sdpo.tiny.data import SUFFIX, posts
from sdpo.tiny.users import OracleUser
from sdpo.tiny.world import TinyOracle
from sdpo.train.online.conversations import conversations
from sdpo.train.online.function_user import FunctionUser
from sdpo.users.simulator import FollowUp
from tests.commands import ROOT
from tests.worlds import curve, environment, rows_of, run_job

slow = pytest.mark.slow


def config(folder, **arguments) -> HindsightConfig:
    """Return a configuration that suits the tiny world."""
    tiny = {
        "learning_rate": 2.5e-4, "adam_beta1": 0.5, "per_device_train_batch_size": 16, "max_completion_length": 48,
        "max_steps": 2, "teacher": "frozen", "objective": "full", "focus": 1.0, "hindsight_template": "framed",
        "guard": "off", "gradient_checkpointing": False, "use_cpu": True, "optim": "adamw_torch_fused",
        "save_strategy": "no", "disable_tqdm": True, "seed": 7,
    }  # fmt: skip
    return HindsightConfig(str(folder), **tiny | arguments)


def dataset(count: int = 32, seed: int = 1) -> Dataset:
    """Return prompts as messages, with the system prompt that the tiny model knows."""
    system = {"role": "system", "content": SUMMARY_SYSTEM}
    rows = posts(count, seed, False, "own")
    return Dataset.from_list(
        [{"prompt": [system, {"role": "user", "content": row.prompt.removesuffix(SUFFIX)}]} for row in rows]
    )


def no_emojis(prompts, completions):
    """Complain about emojis, and write nothing to other answers."""
    return ["Please don't use any emoji." if not text.isascii() else None for text in completions]


@slow
def test_the_documented_example_prints_no_warning(tmp_path):
    page = (ROOT / "docs" / "trainer.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "HindsightTrainer(" in block)
    for old, new in (("Qwen/Qwen3-0.6B", str(MODEL_DIR)), ("max_steps=20", "max_steps=2, max_completion_length=8")):
        assert old in example
        example = example.replace(old, new)
    (tmp_path / "ten.py").write_text(example)
    given = environment(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(
        [sys.executable, "ten.py"], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "Failed to load" not in done.stderr, done.stderr
    assert (tmp_path / "egg" / "metrics.jsonl").is_file()


@slow
@pytest.mark.parametrize("quiet", [False, True])
def test_the_answers_of_the_start_model_are_shown_while_they_are_made(tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setattr(display, "FIRST", 0.0)
    monkeypatch.setattr(display, "EVERY", 0.02)
    args = config(tmp_path / "run", guard="warn", max_steps=1, disable_tqdm=quiet)
    HindsightTrainer(str(MODEL_DIR), no_emojis, args, dataset(16)).train()
    shown = re.search(r"the start model's answers to general prompts: \d+ of \d+ answers", capsys.readouterr().out)
    assert (shown is None) == quiet


def test_sdpo_is_imported_without_torch():
    code = "import sys, sdpo\nassert 'HindsightTrainer' in sdpo.__all__ and 'torch' not in sys.modules"
    code += "\ntry: sdpo.Hindsight\nexcept AttributeError: print('none')"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr


# Learning


@slow
def test_it_learns_from_a_function_that_complains(tmp_path):
    user, shares = OracleUser({"emoji": False}, 0), []

    def complain(prompts, completions):
        shares.append(sum(text.isascii() for text in completions) / len(completions))
        assert prompts[0][0] == {"role": "system", "content": SUMMARY_SYSTEM}
        return [reply.text for reply in user.react([], completions)]

    args = config(tmp_path, max_steps=22)
    HindsightTrainer(str(MODEL_DIR), user=complain, args=args, train_dataset=dataset(352)).train()
    assert len(shares) == 22
    assert sum(shares[:5]) / 5 < 0.75 and sum(shares[-5:]) / 5 > 0.9


@slow
def test_a_run_is_that_of_the_job_with_the_same_settings(tmp_path):
    job = {"train_n": 48, "eval_n": 0, "save_steps": 3, "user_model_name_or_path": "rule", "user_trial": "off"}
    run_job(None, tmp_path / "job", **job)
    prompts = read_prompts(WORLD_DIR / "data" / "train.jsonl", "")[:48]
    system = {"role": "system", "content": SUMMARY_SYSTEM}
    rows = [{"prompt": [system, {"role": "user", "content": row.prompt.removesuffix(SUFFIX)}]} for row in prompts]
    args = config(tmp_path / "own", max_steps=-1, num_train_epochs=1, guard="stop", save_strategy="steps", save_steps=3)
    user = TinyOracle("no_emojis").user(7)
    HindsightTrainer(str(MODEL_DIR), user=user, args=args, train_dataset=rows).train()
    assert curve(tmp_path / "own") == curve(tmp_path / "job")
    assert [row["follow_up"] for row in rows_of(tmp_path / "own" / "samples.jsonl")] == [
        row["follow_up"] for row in rows_of(tmp_path / "job" / "samples.jsonl")
    ]
    own, jobs = (load_file(tmp_path / name / "checkpoint-3" / "model.safetensors") for name in ("own", "job"))
    assert own.keys() == jobs.keys() and all(torch.equal(own[name], jobs[name]) for name in own)


@slow
def test_an_adapter_is_trained_and_resumed_as_if_never_interrupted(tmp_path):
    def train(folder, steps, resume=None):
        args = config(
            folder, max_steps=steps, teacher="ema", ema_rate=0.5, save_strategy="steps", save_steps=2, guard="warn",
            per_device_train_batch_size=4,
        )  # fmt: skip
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = HindsightTrainer(
            str(MODEL_DIR), user=no_emojis, args=args, train_dataset=dataset(32), peft_config=lora
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train(tmp_path / "whole", 4)
    assert {name for name, weight in whole.model.named_parameters() if weight.requires_grad} == {
        name for name, _ in whole.model.named_parameters() if "lora_" in name
    }
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "library_name: peft" in card and "| TEACHER | ema |" in card and str(MODEL_DIR) not in card
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    # As a crash leaves the last checkpoint: True takes the last complete one.
    (tmp_path / "parts" / "checkpoint-4" / "complete.json").unlink()
    resumed = train(tmp_path / "parts", 4, resume=True)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole") and len(curve(tmp_path / "whole")) == 4
    weights = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    # Trained anew in the same folder, nothing of the earlier training is left in the files.
    train(tmp_path / "parts", 1)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")[:1]


@slow
def test_logged_answers_and_their_follow_ups_are_learned_from_without_a_user(tmp_path):
    rows = dataset(16).add_column("completion", ["i lost my keys"] * 16).add_column("follow_up", ["longer!", None] * 8)
    trainer = HindsightTrainer(str(MODEL_DIR), args=config(tmp_path, max_steps=1), train_dataset=rows)
    trainer.train()
    (row,) = rows_of(tmp_path / "metrics.jsonl")
    assert (row["interactions"], row["usable"], row["empty"]) == (16, 8, 8)
    assert {sample["completion"] for sample in rows_of(tmp_path / "samples.jsonl")} == {"i lost my keys"}
    assert {(sample["follow_up"], sample["kind"] is None) for sample in rows_of(tmp_path / "samples.jsonl")} == {
        ("longer!", False),
        ("", True),
    }


@slow
def test_nothing_is_learned_where_the_user_writes_nothing(tmp_path):
    silent = HindsightTrainer(
        load_model(str(MODEL_DIR))[1],
        user=lambda prompts, completions: [None] * len(completions),
        args=config(tmp_path, max_steps=1, objective="token", focus=0.0, log_completions=True, logging_steps=1),
        train_dataset=[{"prompt": "I lost my keys."}] * 16,
        eval_dataset=dataset(16),
    )
    silent.train()
    start = load_model(str(MODEL_DIR))[1]
    assert all(map(torch.equal, start.parameters(), silent.model.parameters()))
    assert rows_of(tmp_path / "metrics.jsonl")[0]["empty"] == 16
    assert silent.evaluate()["eval_loss"] == 0.0 and rows_of(tmp_path / "validation.jsonl")[0]["usable"] == 0


# The user


def test_a_function_may_be_async_even_where_an_event_loop_runs_already():
    async def thoughtful(prompts, completions):
        await asyncio.sleep(0)
        return [f"{prompts[0][-1]['content']}: {text}" for text in completions]

    async def notebook():
        return FunctionUser(thoughtful).reply([[{"role": "user", "content": "why"}]], ["so"])

    for replies in (
        FunctionUser(thoughtful).reply([[{"role": "user", "content": "why"}]], ["so"]),
        asyncio.run(notebook()),
    ):
        assert replies == [FollowUp("why: so")]


def test_a_function_cannot_change_the_prompts_and_may_say_who_is_satisfied():
    prompts = [[{"role": "user", "content": "why"}]]

    def meddling(conversations, completions):
        conversations[0][0]["content"] = "because"
        return (FollowUp(" thanks", satisfied=True), " shorter ", None)

    replies = FunctionUser(meddling).reply(prompts * 3, ["a", "b", "c"])
    assert replies == [FollowUp(" thanks", satisfied=True), FollowUp("shorter"), FollowUp("")]
    assert prompts == [[{"role": "user", "content": "why"}]]


def broken(prompts, completions):
    """Fail as a function with a mistake does."""
    return completions[0]["text"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (broken, "function broken raised TypeError: string indices must be integers"),
        (lambda prompts, completions: None, "returned NoneType, not a list of 2"),
        (lambda prompts, completions: "too long", "returned str, not a list of 2"),
        (lambda prompts, completions: ["too long"], "returned 1 follow-ups, not a list of 2"),
        (lambda prompts, completions: [None, 3], "returned int for answer 1, not a list of 2"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_in_one_line(function, words):
    with pytest.raises(UserFailed, match=words) as raised:
        FunctionUser(function).reply([[{"role": "user", "content": "x"}]] * 2, ["a", "b"])
    assert "\n" not in str(raised.value)


@slow
def test_an_exception_in_the_function_ends_the_training_with_its_traceback(tmp_path):
    trainer = HindsightTrainer(str(MODEL_DIR), user=broken, args=config(tmp_path), train_dataset=dataset())
    with pytest.raises(UserFailed, match="user function broken raised TypeError") as raised:
        trainer.train()
    assert isinstance(raised.value.__cause__, TypeError)


# The data


def test_prompts_as_texts_and_as_messages_are_the_same_conversations():
    texts, messages = ["why?", "how?"], [[{"role": "user", "content": "why?"}], [{"role": "user", "content": "how?"}]]
    for rows in (Dataset.from_dict({"prompt": texts, "id": [1, 2]}), [{"prompt": text} for text in messages]):
        assert list(conversations(rows, False)["prompt"]) == messages
    stream = IterableDataset.from_generator(lambda: ({"prompt": text} for text in texts))
    assert [row["prompt"] for row in conversations(stream, False)] == messages


def test_recorded_answers_may_be_messages_as_trl_has_them():
    rows = [{"prompt": "why?", "completion": [{"role": "assistant", "content": "so"}], "follow_up": None}]
    assert conversations(rows, True)[0] == {
        "prompt": [{"role": "user", "content": "why?"}], "completion": "so", "follow_up": "",
    }  # fmt: skip
    assert conversations(rows, False).column_names == ["prompt"]  # a user reads new answers, not these


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "why?"}, r"no column prompt, only question"),
        ({"prompt": ""}, r"row 0: the last message must be the user's, with a text"),
        ({"prompt": 3}, r"row 0: the prompt must be a text, or a list of messages"),
        ({"prompt": [{"role": "assistant", "content": "so"}]}, r"row 0: the last message must be the user's"),
        ({"prompt": [{"role": "tool", "content": "so"}]}, r"row 0: each message needs a role, system, user, assistant"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, words):
    with pytest.raises(RecordError, match=words):
        conversations([row], False)


def test_recorded_rows_need_a_follow_up():
    with pytest.raises(RecordError, match=r"no column follow_up.*without a user it needs prompt, completion and"):
        conversations([{"prompt": "why?", "completion": "so"}], True)


# The configuration


def test_the_defaults_are_those_of_the_jobs(tmp_path):
    args = HindsightConfig(str(tmp_path), use_cpu=True)
    found = (args.teacher, args.objective, args.learning_rate, args.hindsight_template, args.guard, args.beta)
    assert found == ("live", "token", 5e-6, "before", "stop", 0.0) and args.num_generations == 1 and not args.bf16
    recommended, recipe = (
        HindsightConfig.recommended(str(tmp_path), use_cpu=True, rehearsal=1.0),
        RECIPES["recommended"],
    )
    assert recommended.contrast_strength == recipe["contrast_strength"] and recommended.learning_rate == recipe["lr"]
    assert recommended.num_iterations == recipe["iterations"] and recommended.rehearsal == 1.0
    assert args.num_train_epochs == recommended.num_train_epochs == 1
    other = HindsightConfig.recommended(str(tmp_path), use_cpu=True, objective="token", learn_from="all")
    assert other.contrast_plausibility == other.content_weight == 0 and other.contrast_strength == 6
    with pytest.raises(ValueError, match=r"contrast_plausibility=0\.1 has no effect"):
        HindsightConfig.recommended(str(tmp_path), use_cpu=True, objective="token", contrast_plausibility=0.1)


def test_follow_ups_are_read_by_the_start_model_also_without_a_guard(tmp_path):
    for learn_from, own in (("complaints", True), ("all", False)):
        args = config(tmp_path / learn_from, teacher="live", objective="token", focus=0.0, learn_from=learn_from)
        trainer = HindsightTrainer(str(MODEL_DIR), no_emojis, args=args, train_dataset=dataset())
        assert (trainer.start is not trainer.hindsight.teacher) == own
        before = {name: weight.clone() for name, weight in trainer.start._model.named_parameters()}
        trainer.train()
        assert all(torch.equal(before[n], w) for n, w in trainer.start._model.named_parameters()) == own


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher": "lively"}, "teacher='lively' must be one of live, frozen, ema, gated"),
        ({"content_weight": 2.0}, "content_weight=2.0 must be a number at least 0 and at most 1"),
        ({"beta": 0.1}, "beta=0.1 has no effect"),
        ({"epsilon_high": 10.0}, "epsilon_high=10.0 has no effect"),
        ({"clip_signal": 1.0, "objective": "full"}, "clip_signal=1.0 has no effect with objective='full'"),
        ({"contrast_strength": 2.0}, "contrast_strength=2.0 has no effect with null_contrast=False"),
        ({"content_weight": 0.5}, "it is for learn_from='complaints'"),
        ({"contrast_plausibility": 0.1, "objective": "full"}, "has no effect with null_contrast=False"),
        ({"direction": "jsd"}, "it is for objective='full' or 'top_k'"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        HindsightConfig(str(tmp_path), use_cpu=True, **arguments)


@pytest.mark.parametrize(
    ("name", "meant"), [("lr", "learning_rate"), ("bs", "per_device_train_batch_size"), ("teachers", "teacher")]
)
def test_an_argument_that_does_not_exist_is_refused_with_the_one_that_is_meant(name, meant, tmp_path):
    for make in (HindsightConfig, HindsightConfig.recommended):
        with pytest.raises(TypeError, match=rf"HindsightConfig has no argument {name}\. Did you mean {meant}\?"):
            make(str(tmp_path), **{name: 1})


def test_a_configuration_survives_a_copy_in_another_process(tmp_path):
    args = HindsightConfig(str(tmp_path), use_cpu=True, learning_rate=3e-5)
    copy = pickle.loads(pickle.dumps(args))
    assert copy == args and copy.learning_rate == 3e-5


def test_what_cannot_be_trained_is_refused_before_anything_is_trained(tmp_path):
    rows = [{"prompt": "why?"}]
    with pytest.raises(ValueError, match="needs a train_dataset"):
        HindsightTrainer(str(MODEL_DIR), user=no_emojis)
    with pytest.raises(ValueError, match="eval_dataset needs a user"):
        HindsightTrainer(str(MODEL_DIR), train_dataset=rows, eval_dataset=rows)
    with pytest.raises(SettingError, match="model=/nowhere cannot be loaded"):
        HindsightTrainer("/nowhere", user=no_emojis, args=config(tmp_path), train_dataset=rows)
