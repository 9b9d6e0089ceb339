"""Callbacks of all training jobs: metrics and samples, the teacher's updates and weights, and a stop on SIGTERM."""

import resource
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from sdpo import progress
from sdpo.errors import RunStopped
from sdpo.method.teacher import Teacher
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.record import SAMPLES_PER_STEP, BaseTrainer, StepRecord
from sdpo.train.teacher_weights import load_teacher, save_teacher

VALIDATION_FILE = "validation.jsonl"
VALIDATION_METRICS = (
    "satisfied",
    "signal",
    "signal_size",
    "entropy",
    "completion_tokens",
    "repetition",
    "truncated",
    "usable",
)

# The metrics of a step's answers and their users, which further passes over the same answers do not change.
OF_ANSWERS = {*VALIDATION_METRICS, "satisfied", "unmoved", "empty", "too_long"} - {"entropy", "signal", "signal_size"}

# Returns more metrics of a step's prompts and completions, such as those of an oracle.
CompletionReader = Callable[[list[str], list[str]], dict[str, Any]]


class MetricsCallback(TrainerCallback):
    """Writes a row of metrics and a few interactions for each optimizer step.

    Also prints a line every `every` steps, none if that is 0. `row` holds the last step's metrics on every process.
    """

    def __init__(self, run: RunDirectory, trainer: BaseTrainer, every: int, read: CompletionReader | None) -> None:
        self.run, self.trainer, self.every, self.read = run, trainer, every, read
        self.interactions = 0
        self.row: dict = {}
        self.of_answers: dict = {}
        self.completions: list[str] = []
        self.started = time.perf_counter()

    def on_train_begin(self, args, state, control, **_) -> None:
        """Continue the count of interactions of a resumed run."""
        rows = self.run.read_rows("metrics.jsonl") if self.trainer.accelerator.is_main_process else []
        self.interactions = rows[-1]["interactions"] if rows else 0

    def on_step_begin(self, args, state, control, **_) -> None:
        """Start timing the step."""
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **_) -> None:
        """Add up the records of all processes and write the step's metrics and samples."""
        seconds = time.perf_counter() - self.started
        records = gather_object([self.trainer.take_record()])
        self.interactions += sum(record.rows for record in records)
        self.row = row = {"step": state.global_step, "interactions": self.interactions, **_metrics(records, seconds)}
        row["learning_rate"] = self.trainer.lr_scheduler.get_last_lr()[0]
        if any(record.rows for record in records):
            self.of_answers = {name: value for name, value in row.items() if name in OF_ANSWERS}
        else:  # with ITERATIONS: another pass over the answers of the step before
            row |= self.of_answers
        self.completions = completions = [text for record in records for text in record.completions]
        if not self.trainer.accelerator.is_main_process:
            return
        if self.read and completions:
            read = self.read([text for record in records for text in record.prompts], completions)
            row |= read
            self.of_answers |= read
        self.run.append("metrics.jsonl", [row])
        samples = [sample for record in records for sample in record.samples][:SAMPLES_PER_STEP]
        self.run.append("samples.jsonl", [{"step": state.global_step, **sample} for sample in samples])
        if self.every and (state.global_step % self.every == 0 or state.global_step in (1, state.max_steps)):
            print(_line(row, state.max_steps), flush=True)

    def on_evaluate(self, args, state, control, **_) -> None:
        """Write how users reacted to the answers to the validation prompts."""
        records = gather_object([self.trainer.take_record()])
        metrics = _metrics(records, 0.0)
        row = {"step": state.global_step, "interactions": self.interactions} | {
            name: metrics[name] for name in VALIDATION_METRICS
        }
        completions = [text for record in records for text in record.completions]
        if self.read:
            row |= self.read([text for record in records for text in record.prompts], completions)
        self.trainer.log({f"eval_{name}": row[name] for name in ("satisfied", "completion_tokens")})
        if self.trainer.accelerator.is_main_process:
            samples = [sample for record in records for sample in record.samples][:SAMPLES_PER_STEP]
            self.run.append(VALIDATION_FILE, [row | {"answers": len(completions), "samples": samples}])
            figures = f"{row['satisfied']:.2f} satisfied  |signal| {row['signal_size']:.3f}{_style_figures(row)}"
            print(f"validation, step {state.global_step}: {len(completions)} answers  {figures}", flush=True)

    def on_save(self, args, state, control, **_) -> None:
        """Mark the checkpoint as complete once every process has written its part."""
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.accelerator.is_main_process:
            processes = self.trainer.accelerator.num_processes
            self.run.mark_complete(state.global_step, processes, interim=self.trainer.is_interim)


class RotationCallback(TrainerCallback):
    """Removes the checkpoints that SAVE_LIMIT does not keep, and old interim ones, which do not count towards it.

    Add it after the MetricsCallback, which marks the new checkpoint as complete, and after the CollapseGuard, which
    says whether it is the best one.
    """

    def __init__(self, run: RunDirectory, trainer: BaseTrainer) -> None:
        self.run, self.trainer = run, trainer

    def on_save(self, args, state, control, **_) -> None:
        """Remove them. The last checkpoint and the guard's best one stay."""
        if not self.trainer.accelerator.is_main_process:
            return
        self.run.remove_old_interim_checkpoints()
        if limit := self.trainer.save_limit:
            kept = limit + len(self.run.interim_checkpoints())
            rotate_checkpoints(args.output_dir, kept, state.best_model_checkpoint)


class TeacherCallback(TrainerCallback):
    """Updates the teacher after each step, and saves its own weights in the checkpoints.

    Add it before the MetricsCallback, which marks the checkpoint as complete. `resume_from` is the checkpoint that
    the run resumes from.
    """

    def __init__(self, trainer: BaseTrainer, teacher: Teacher) -> None:
        self.trainer, self.teacher = trainer, teacher
        self.resume_from: Path | None = None

    def on_train_begin(self, args, state, control, **_) -> None:
        """Load the teacher of the checkpoint that the run resumes from."""
        if self.resume_from:
            load_teacher(self.teacher, self.resume_from)

    def on_step_end(self, args, state, control, **_) -> None:
        """Update a teacher that follows the policy."""
        self.teacher.after_step()

    def on_save(self, args, state, control, **_) -> None:
        """Write the teacher's weights to the policy's checkpoint, unless that cannot be resumed anyway."""
        if args.save_only_model:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_teacher(self.teacher, folder, self.trainer.accelerator.is_main_process)


class ProgressCallback(TrainerCallback):
    """Shows the steps as under way, and within a step its micro-batches."""

    def __init__(self) -> None:
        self._training, self._step = ExitStack(), ExitStack()

    def on_train_begin(self, args, state, control, **_) -> None:
        """Begin with the steps of the checkpoint that a run resumes from, if there is one."""
        self._steps = self._training.enter_context(
            progress.task("training", state.max_steps, "steps", done=state.global_step)
        )

    def on_step_begin(self, args, state, control, **_) -> None:
        """Begin a step."""
        accumulation = args.gradient_accumulation_steps
        counted = progress.task("micro-batches", accumulation) if accumulation > 1 else progress.task("this step")
        self._parts = self._step.enter_context(counted)

    def on_substep_end(self, args, state, control, **_) -> None:
        """Count a micro-batch."""
        self._parts.advance()

    def on_step_end(self, args, state, control, **_) -> None:
        """Count a step."""
        self._step.close()
        self._steps.advance()

    def on_train_end(self, args, state, control, **_) -> None:
        """End it all: training also ends in the middle of an epoch."""
        self._step.close()
        self._training.close()


class GracefulStop(TrainerCallback):
    """On SIGTERM saves a checkpoint after the current step and ends training; `requested` is then True.

    Before the first step and after the last there is nothing to save, and what is under way may take minutes, which
    containers and clusters do not give: the process ends at once, and the same command goes on.
    """

    def __init__(self, trainer: BaseTrainer) -> None:
        self.trainer = trainer
        self.requested = self._training = False
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: object) -> None:
        self.requested = True
        if not self._training:
            print("stopping between the steps; the same command goes on", flush=True)
            raise SystemExit(RunStopped.exit_code)
        print("stopping after this step, with a checkpoint", flush=True)

    def on_train_begin(self, args, state, control, **_) -> None:
        """Steps follow: from here on they are finished and saved."""
        self._training = True

    def on_train_end(self, args, state, control, **_) -> None:
        """Measurements follow, which a new start repeats."""
        self._training = False

    def on_step_end(self, args, state, control, **_) -> None:
        """Save and stop if any process received the signal: all have to do so in the same step.

        Between two passes over the same answers the next one is waited for: a checkpoint does not hold the answers.
        """
        self.requested = any(gather_object([self.requested]))
        if self.requested and self.trainer.is_between_passes:
            if self.trainer.accelerator.is_main_process:
                print("stopping after the next step, which passes over the same answers", flush=True)
        elif self.requested:
            self.trainer.interrupted = True
            control.should_save = control.should_training_stop = True


def _metrics(records: list[StepRecord], seconds: float) -> dict:
    """Return the step's metrics from the records of all processes; `seconds` is the duration of the step."""

    def total(name: str) -> float:
        return sum(getattr(record, name) for record in records)

    tokens, rows = max(total("tokens"), 1), max(total("rows"), 1)
    parts = {part: max(record.seconds[part] for record in records) for part in records[0].seconds}
    parts["training"] = max(seconds - sum(parts.values()), 0.0)
    return {
        "loss": total("loss") / max(total("micro_batches"), 1),
        "signal": total("signal") / tokens,
        "signal_size": total("signal_size") / tokens,
        "entropy": total("entropy") / tokens,
        "completion_tokens": tokens / rows,
        "repetition": total("repetition") / rows,
        "satisfied": total("stated_satisfied") / total("stated")
        if total("stated")
        else total("satisfied") / max(total("judged"), 1),
        "truncated": total("truncated") / rows,
        "usable": total("usable"),
        "unmoved": total("unmoved"),
        "empty": total("empty"),
        "too_long": total("too_long"),
        **({"rehearsal": total("rehearsal") / total("rehearsals")} if total("rehearsals") else {}),
        "forwards": total("forwards"),
        "seconds": {part: round(value, 4) for part, value in parts.items()},
        "peak_memory_gb": round(peak_memory_gb(), 3),
    }


def peak_memory_gb() -> float:
    """Return this process's peak memory in GB: of the GPU if there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _line(row: dict, steps: int) -> str:
    seconds = row["seconds"]
    lost = row["empty"] + row["too_long"]
    return (
        f"step {row['step']:>4}/{steps}  interactions {row['interactions']:>5}  |signal| {row['signal_size']:.3f}  "
        f"tokens {row['completion_tokens']:.1f}{_style_figures(row)}  {sum(seconds.values()):.2f} s "
        f"(answers {seconds['generation']:.2f}, user {seconds['user']:.2f}, hindsight {seconds['scoring']:.2f}, "
        f"update {seconds['training']:.2f})" + (f"  {lost} without a usable follow-up" if lost else "")
    )


def _style_figures(row: dict) -> str:
    """Return the oracle's figures as text, empty if there are none."""
    return f"  adherence {row['adherence']:.2f}  validity {row['validity']:.2f}" if "adherence" in row else ""
