"""One online training run from loaded model to summary: measure, train, measure, report."""

import itertools
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from sdpo import processes
from sdpo import settings as settings_module
from sdpo.chat import encode_prompt
from sdpo.errors import SettingError, one_line
from sdpo.evaluate.generate import generate
from sdpo.records import read_prompts
from sdpo.run import RunDirectory
from sdpo.tiny import oracle
from sdpo.train import user as user_module
from sdpo.train.away import Patience
from sdpo.train.callbacks import CleanStop, Recorder
from sdpo.train.online import is_tiny, read_template, run_facts, training_prompts
from sdpo.train.online_trainer import OnlineConfig, OnlineTrainer
from sdpo.train.spending import Spending

if TYPE_CHECKING:
    from sdpo.launch import Job
    from sdpo.settings import OnlineSettings


class OnlineSession:
    """Holds the run directory, the trainer and the validation prompts of one run."""

    def __init__(self, settings: "OnlineSettings", job: "Job") -> None:
        self.settings, self.job = settings, job
        # What the libraries will rename one day is nothing that a user of ours can act on.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|accelerate)\b")
        disable_progress_bar()
        self.bf16 = settings.precision == "bf16" or (settings.precision == "auto" and torch.cuda.is_available())
        config = self._config()  # first: it starts the process group
        self.main = config.process_index == 0
        self.run_dir = RunDirectory(settings.output_dir)
        with config.main_process_first(local=False):
            if self.main:
                self._open_run_dir()
        set_seed(settings.seed)
        self.tokenizer, model = load_model(settings.model_name_or_path)
        user = user_module.build_user(settings, self.run_dir.path, config.process_index, config.world_size)
        self.trainer = OnlineTrainer(
            user=user,
            model=model,
            args=config,
            train_dataset=self._dataset(),
            processing_class=self.tokenizer,
        )
        self.trainer.remove_callback(PrinterCallback)
        self.stop = CleanStop()
        wanted = oracle.wants_of(settings.style) if is_tiny(settings) else None
        read = partial(_read_step, wanted=wanted) if wanted is not None else None
        self.trainer.add_callback(Recorder(self.run_dir, self.trainer, settings.log_steps, read))
        self.trainer.add_callback(self.stop)
        self.spending = Spending(self.run_dir, self.trainer, user.client, settings.log_steps)
        self.trainer.add_callback(self.spending)
        self.patience = Patience(
            self.trainer,
            user,
            user_module.address(settings),
            settings.simulator_wait,
            self.save_now,
            lambda: self.stop.asked,
            ours=processes.simulator_is_ours(settings),
        )
        self.trainer.add_callback(self.patience)
        self.trainer.wait_for_user = self.patience.wait

    def run(self) -> bool:
        """Measure, train and measure again; return False where the run was asked to stop before its end."""
        summary = self.run_dir.read_json("summary.json") or {}
        started = time.monotonic()
        if self.settings.eval_n and "before" not in summary:
            summary["before"] = self._measure("before training")
            self._write_summary(summary)
        checkpoint = self.run_dir.last_checkpoint() if self.settings.resume == "auto" else None
        try:
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            summary["seconds"] = round(summary.get("seconds", 0) + time.monotonic() - started, 1)
            self._write_summary(summary)
        steps = self.trainer.state.global_step
        if self.stop.asked and steps < self.trainer.state.max_steps:
            return False
        if self.settings.eval_n:
            summary["after"] = self._measure("after training")
        summary |= {"steps": steps, "style": self.settings.style, "teacher": self.settings.teacher, "finished": True}
        self._write_summary(summary)
        if self.main:
            self._report(summary)
        return True

    def save_now(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one. Every process calls it, in mid-step."""
        state = self.trainer.state
        self.spending.write()
        last = self.run_dir.last_checkpoint()
        if state.global_step and (last is None or last.name != f"checkpoint-{state.global_step}"):
            with self.patience.random:
                self.trainer._save_checkpoint(self.trainer.model, trial=None)
            self.trainer.callback_handler.on_save(self.trainer.args, state, self.trainer.control)

    def _open_run_dir(self) -> None:
        state = self.run_dir.open(
            settings_module.redacted(self.settings), self.settings.resume == "auto", run_facts(self.settings, self.job)
        )
        if state == "continued":
            for name in self.run_dir.remove_half_checkpoints():
                print(f"removed {name}: it was only half written", flush=True)
            last = self.run_dir.last_checkpoint()
            step = int(last.name.rsplit("-", 1)[1]) if last else 0
            for name in ("metrics.jsonl", "samples.jsonl"):
                self.run_dir.forget_after(name, step)
            print(f"continuing {self.run_dir.path} after step {step}", flush=True)
        else:
            print(f"run directory: {self.run_dir.path}", flush=True)

    def _config(self) -> OnlineConfig:
        settings, on_gpu = self.settings, torch.cuda.is_available()
        eight_bit = settings.optimizer == "adamw_8bit" or (settings.optimizer == "auto" and on_gpu)
        return OnlineConfig(
            output_dir=str(settings.output_dir),
            run_name=settings.run_id,
            seed=settings.seed,
            learning_rate=settings.lr,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            per_device_train_batch_size=settings.bs,
            gradient_accumulation_steps=settings.ga,
            num_iterations=settings.iterations,
            epsilon=settings.clip,
            max_completion_length=settings.max_completion_tokens,
            temperature=settings.temperature,
            beta=0.0,
            max_grad_norm=1.0,
            optim="adamw_bnb_8bit" if eight_bit else "adamw_torch",
            bf16=self.bf16,
            use_cpu=not on_gpu,
            gradient_checkpointing=settings.gradient_checkpointing,
            save_strategy="steps",
            save_steps=settings.save_steps,
            save_total_limit=settings.save_limit,
            logging_steps=settings.log_steps,
            report_to=["wandb"],
            # A process whose user answers at once waits for those whose user takes all the time it has.
            ddp_timeout=1800 + int(settings.simulator_timeout) * settings.bs * settings.ga,
            disable_tqdm=True,
            chat_template_kwargs={"enable_thinking": False},
            centre_signal=settings.centre_signal,
            teacher=settings.teacher,
            hindsight_template=read_template(settings.hindsight_file),
        )

    def _dataset(self) -> Dataset:
        settings = self.settings
        rows = training_prompts(read_prompts(settings.train_jsonl, self.job.data_command), self.job)
        lengths = (len(encode_prompt(self.tokenizer, row["prompt"])) for row in rows)
        fitting = (place for place, length in enumerate(lengths) if length <= settings.max_prompt_tokens)
        places = list(itertools.islice(fitting, settings.train_n))
        kept = [rows[place] for place in places]
        if self.main and kept:
            left_out = places[-1] + 1 - len(places)
            limit = settings.max_prompt_tokens
            print(f"{len(kept)} prompts; {left_out} on the way were over {limit} tokens and left out", flush=True)
        if len(kept) < settings.train_n:
            raise SettingError(
                f"TRAIN_N={settings.train_n}, but {settings.train_jsonl} has only {len(kept)} prompts of at most "
                f"{settings.max_prompt_tokens} tokens. Lower TRAIN_N or raise MAX_PROMPT_TOKENS."
            )
        return Dataset.from_list(kept)

    def _measure(self, when: str) -> dict:
        """Return what sampled answers to EVAL_N validation prompts are like; every process answers a share."""
        settings, accelerator = self.settings, self.trainer.accelerator
        rows = training_prompts(read_prompts(settings.val_jsonl, self.job.data_command), self.job)[: settings.eval_n]
        mine = rows[accelerator.process_index :: accelerator.num_processes]
        answers = generate(
            accelerator.unwrap_model(self.trainer.model),
            self.tokenizer,
            [encode_prompt(self.tokenizer, row["prompt"]) for row in mine],
            settings.max_completion_tokens,
            settings.eval_batch_size,
            temperature=settings.temperature,
            seed=settings.seed + accelerator.process_index,
        )
        posts = [row["prompt"][-1]["content"] for row in mine]
        gathered = gather_object([(post, *answer) for post, answer in zip(posts, answers, strict=True)])
        if self.main:
            print(f"{when}: {len(gathered)} validation prompts answered", flush=True)
        wanted = oracle.wants_of(settings.style) if is_tiny(settings) else None
        return summarize(gathered, wanted)

    def _write_summary(self, summary: dict) -> None:
        if self.main:
            self.run_dir.write_json("summary.json", summary)

    def _report(self, summary: dict) -> None:
        from sdpo.evaluate.report import draw_training, table

        if "before" in summary:
            print(table(summary))
        picture = draw_training(self.run_dir, summary)
        print(f"picture: {picture}\nsummary: {self.run_dir.path / 'summary.json'}", flush=True)


def load_model(name: str) -> tuple:
    """Return (tokenizer, model) with float32 weights: small updates would be lost in bf16 ones.

    Raises SettingError where the model cannot be found or read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise SettingError(f"MODEL_NAME_OR_PATH={name} cannot be loaded: {one_line(error)}") from None
    if tokenizer.chat_template is None:
        raise SettingError(f"MODEL_NAME_OR_PATH={name} has no chat template: choose an instruction-tuned model.")
    return tokenizer, model


def summarize(answers: list[tuple[str, str, bool]], wanted: dict[str, bool] | None) -> dict:
    """Return what (post, answer, finished) triples are like: by the oracle where it can read them.

    Without an oracle an answer is valid when it is not empty and the model ended it itself, and there is no
    adherence: ask a judge for that (`make eval`).
    """
    posts, texts, finished = (list(column) for column in zip(*answers, strict=True))
    if wanted is not None:
        return oracle.summarize(posts, texts, wanted)
    return {
        "adherence": None,
        "validity": sum(bool(text.strip()) and end for text, end in zip(texts, finished, strict=True)) / len(texts),
        "mean_length": sum(len(text.split()) for text in texts) / len(texts),
        "axes": {},
        "answers": len(texts),
    }


def _read_step(completions: list[str], wanted: dict[str, bool]) -> dict[str, float]:
    read = oracle.summarize([""] * len(completions), completions, wanted)
    return {"adherence": read["adherence"], "validity": read["validity"], "axes": read["axes"]}
