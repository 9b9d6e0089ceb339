"""A trainer for one's own scripts: the method with a function as the user, as TRL's trainers are used.

It is the online jobs' trainer. What a job takes from its settings comes from HindsightConfig here, and what belongs to
a job alone (a simulated user behind an API, the trial of it, evaluation before and after) is left out.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from sdpo import progress
from sdpo.method.teacher import FIXED, Teacher
from sdpo.models.inspection import check_adapter, prepare_tokenizer
from sdpo.models.policy import keep_gradients
from sdpo.models.pretrained import load_tokenizer, load_weights
from sdpo.models.tied_head import expect_no_tied_head
from sdpo.runtime.provenance import provenance
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.hindsight import template_named
from sdpo.text.prompts import Message
from sdpo.train import guard
from sdpo.train.callbacks import VALIDATION_FILE, MetricsCallback, RotationCallback, TeacherCallback
from sdpo.train.guard import CollapseGuard
from sdpo.train.model_card import card
from sdpo.train.objective import build_objective
from sdpo.train.online.conversations import Rows, conversations
from sdpo.train.online.function_user import FunctionUser, UserFunction
from sdpo.train.online.hindsight_config import METHOD, HindsightConfig
from sdpo.train.online.passes import PassesCallback
from sdpo.train.online.reconnect import RoundCallback
from sdpo.train.online.sampling import User
from sdpo.train.online.trainer import OnlineTrainer
from sdpo.train.start_model import GENERAL_FILE, REHEARSAL_FILE, StartModel
from sdpo.train.teacher_refresh import TeacherRefreshCallback
from sdpo.users.simulator import FollowUp

# What a training leaves in the output directory: rows by step, and files of the start.
BY_STEP = ("metrics.jsonl", "samples.jsonl", VALIDATION_FILE, guard.FILE)
OF_START = (guard.START_FILE, GENERAL_FILE, REHEARSAL_FILE)


class HindsightTrainer(OnlineTrainer):
    """Trains a model on its own answers and on what a user writes to them.

        def user(prompts, completions):
            return ["Shorter, please." if len(text) > 200 else None for text in completions]

        HindsightTrainer("Qwen/Qwen3-0.6B", user=user, train_dataset=dataset).train()

    `model` is a hub name, a folder or a loaded model; `peft_config` trains an adapter on it. `user` is called with a
    list of conversations and the list of answers to them, and returns a follow-up to each: a text, or None where the
    user wrote nothing, of which nothing is learned. It may be slow, and it may be async; an exception in it ends the
    training with UserFailed. An object with `react`, such as a SimulatedUser, will do too. `train_dataset` has a column
    `prompt` of texts or of messages. Without a `user` it also has `completion` and `follow_up`: logged answers, and
    what their users wrote.

    The output directory gets `metrics.jsonl` and `samples.jsonl` beside TRL's checkpoints. `collapse_guard.stopped`
    holds the reasons if the guard has ended the training.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        user: UserFunction | User | None = None,
        args: HindsightConfig | None = None,
        train_dataset: Rows | Iterable[dict] | None = None,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: LoraConfig | None = None,
    ) -> None:
        if train_dataset is None:
            raise ValueError("HindsightTrainer needs a train_dataset with a column `prompt`.")
        if user is None and eval_dataset is not None:
            raise ValueError("eval_dataset needs a user, who reads the answers to its prompts.")
        args = args if args is not None else HindsightConfig(f"{_name_of(model)}-hindsight")
        if isinstance(model, PeftModel) and args.teacher in ("ema", "gated"):
            raise ValueError(f"teacher={args.teacher!r} needs the base model, and its adapter as peft_config.")
        set_seed(args.seed)
        policy, tokenizer = _load(model, processing_class, args, peft_config)
        teacher = Teacher(args.teacher, policy, args.ema_rate, adapter=peft_config is not None)
        start = None
        needs_start = args.guard != "off" or args.rehearsal or args.learn_from == "complaints"
        if args.teacher != "frozen" and needs_start:
            start = Teacher("frozen", policy, adapter=peft_config is not None)
        is_function = user is not None and not hasattr(user, "react")
        super().__init__(
            user=FunctionUser(user) if is_function else user,  # type: ignore[arg-type]
            model=policy,
            teacher=teacher,
            start=start,
            objective=build_objective(args, args.teacher_top_k, clip=args.epsilon, focus=args.focus),
            args=args,
            train_dataset=conversations(train_dataset, recorded=user is None),
            eval_dataset=_each(eval_dataset),
            processing_class=tokenizer,
            hindsight_template=template_named(args.hindsight_template),
            null_follow_up=args.null_follow_up,
            complaints_only=args.learn_from == "complaints",
            content_weight=args.content_weight if args.learn_from == "complaints" else 0.0,
            peft_config=peft_config,
            optimizers=optimizers,
        )
        self.run_directory = RunDirectory(Path(str(args.output_dir)))
        self._model_name = _name_of(model) if Path(_source_of(model)).exists() else _source_of(model)
        self.collapse_guard: CollapseGuard | None = None
        self._add_own_callbacks(args)
        for callback in callbacks or ():  # after ours, so that they can read this step's metrics
            self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **named: Any) -> Any:
        """Train as TRL's trainers do; with True the last complete checkpoint of the output directory is resumed.

        Returns TRL's TrainOutput. Raises UserFailed if the user function fails, LossNotFinite if the loss does.
        """
        checkpoint = resume_from_checkpoint
        if checkpoint is True and (last := self.run_directory.last_checkpoint()):
            checkpoint = str(last)
        self._teacher_callback.resume_from = Path(checkpoint) if isinstance(checkpoint, str) else None
        if self.accelerator.is_main_process:
            self._prepare_files(self._teacher_callback.resume_from)
        self.accelerator.wait_for_everyone()
        if self._start_model is not None:
            self._make_start_answers(self._start_model)
        with warnings.catch_warnings():
            # TRL calls methods of transformers by their old names in every step.
            warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning, r"transformers\.")
            return super().train(checkpoint, *arguments, **named)

    def create_model_card(self, *_: object, **__: object) -> None:
        """Write README.md with the model, the method's settings and the packages to the output directory."""
        if not self.is_world_process_zero():
            return
        settings = {name: getattr(self.args, name) for name in METHOD}
        settings |= {"run_id": self.run_directory.path.name, "model": self._model_name}
        settings |= {"adapter": "lora" if is_peft_model(self.model) else "none", "lr": self.args.learning_rate}
        started = provenance() | {"settings": settings}
        text = card("HindsightTrainer", started, {"steps": self.state.global_step})
        self.run_directory.path.mkdir(parents=True, exist_ok=True)
        self.run_directory.write_text("README.md", text)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        scored = super()._generate_and_score_completions(inputs)
        if self.log_completions:  # TRL prints these; an answer has an advantage for each token, and no reward
            rows = gather_object(scored["text"])
            logs: Any = self._logs
            logs["prompt"].extend(row["prompt"] for row in rows)
            logs["completion"].extend(row["completion"] for row in rows)
            logs["extra"]["follow-up"].extend(row["follow_up"] for row in rows)
            logs["advantages"].extend(math.nan for _ in rows)
        return scored

    def _ask(self, number: int, prompts: list[list[Message]], completions: list[str]) -> list[FollowUp]:
        if isinstance(self.user, FunctionUser):
            return self.user.reply(prompts, completions)
        return super()._ask(number, prompts, completions)

    def _add_own_callbacks(self, args: HindsightConfig) -> None:
        """Add what the jobs have too: metrics and samples, the teacher's updates, the guard, the rounds of the user."""
        run = self.run_directory
        self._start_model: StartModel | None = None
        self.rehearsal_weight = args.rehearsal
        if args.guard != "off" or args.rehearsal:
            template = template_named(args.hindsight_template)
            rows = args.per_device_train_batch_size
            self._start_model = StartModel(self.start, self.processing_class, rows, None, template)
        self._teacher_callback = TeacherCallback(self, self.hindsight.teacher)
        metrics = MetricsCallback(run, self, 0, None)
        added: list[TrainerCallback] = [self._teacher_callback, metrics]
        if args.teacher == "gated":
            added.append(TeacherRefreshCallback(run, self, self.hindsight.teacher, lambda: metrics.row))
        if args.guard != "off":
            self.collapse_guard = CollapseGuard(
                run,
                self,
                lambda: metrics.row,
                lambda: self.latest,
                stops=args.guard == "stop",
                anchored=args.teacher in FIXED,
                start=self._start_model,
            )
            added.append(self.collapse_guard)
        added.append(RotationCallback(run, self))
        if self.user is not None:
            added.append(RoundCallback(self.user))
        added.append(PassesCallback(self))
        for callback in added:
            self.add_callback(callback)

    def _make_start_answers(self, start: StartModel) -> None:
        """Sample the start model's answers that guard and rehearsal measure with, and show how far they are."""
        policy = self.accelerator.unwrap_model(self.model)
        main, seed = self.accelerator.is_main_process, self.args.seed
        shown = progress.shown("answers of the start model", main=main and not self.args.disable_tqdm)
        with shown, self.precision_of_training():
            start.answer_general_prompts(policy, self.run_directory, main, None, seed)
            if self.rehearsal_weight:
                start.answer_rehearsal_prompts(policy, self.run_directory, main, None, seed)
                self.rehearsal = start.rehearsal_divergence

    def _prepare_files(self, checkpoint: Path | None) -> None:
        """Remove from our files what is not of the training that begins or is resumed; create the folder if needed."""
        run = self.run_directory
        run.path.mkdir(parents=True, exist_ok=True)
        step = 0
        if checkpoint is not None and (state := checkpoint / TRAINER_STATE_NAME).is_file():
            step = TrainerState.load_from_json(str(state)).global_step
        for name in BY_STEP:
            run.drop_rows_after(name, step)
        if step == 0:
            for name in OF_START:
                (run.path / name).unlink(missing_ok=True)


def _load(
    model: str | Path | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    args: HindsightConfig,
    peft_config: LoraConfig | None,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Return the model and its tokenizer, both checked and prepared as for the jobs.

    Raises SettingError if they cannot be loaded, or do not fit the method or the adapter.
    """
    source = _source_of(model)
    if tokenizer is None:
        tokenizer = load_tokenizer(source, "model")
    else:
        prepare_tokenizer(tokenizer, source, "model")
    if isinstance(model, str | Path):
        # Small updates would be lost in bf16 weights; under an adapter they are not trained.
        dtype = torch.bfloat16 if args.bf16 and peft_config is not None else torch.float32
        given: Any = args.model_init_kwargs  # a dictionary, except on a command line
        more = dict(given or {})
        args.model_init_kwargs = None  # TRL would warn that they have no effect on a loaded model
        model = load_weights(source, "model", more.pop("dtype", dtype), **more)
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    keep_gradients(base)
    expect_no_tied_head(base)
    if peft_config is not None:
        check_adapter(base, peft_config)
    return model, tokenizer


def _name_of(model: str | Path | PreTrainedModel | PeftModel) -> str:
    return Path(_source_of(model)).name or "model"


def _source_of(model: str | Path | PreTrainedModel | PeftModel) -> str:
    """Return the hub name or the folder that a model was loaded from."""
    return str(model) if isinstance(model, str | Path) else str(getattr(model.config, "_name_or_path", ""))


def _each(datasets: Rows | Mapping[str, Rows] | Iterable[dict] | None) -> Any:
    """Return the evaluation data, one dataset or several by name, as conversations."""
    if datasets is None or isinstance(datasets, Dataset):
        return None if datasets is None else conversations(datasets, False, "eval_dataset")
    if isinstance(datasets, Mapping):
        return {name: conversations(rows, False, f"eval_dataset[{name!r}]") for name, rows in datasets.items()}
    return conversations(datasets, False, "eval_dataset")
