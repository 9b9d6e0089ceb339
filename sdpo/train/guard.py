"""The guard: measures a run for collapse of the policy while it trains, warns, then stops it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerState, TrainingArguments

from sdpo.method.scoring import score
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.collapse import LIMITS, STOP, CollapseDetector
from sdpo.train.record import BaseTrainer, LatestAnswers
from sdpo.train.start_model import StartModel

FILE = "guard.jsonl"
START_FILE = "guard-start.json"
PROBE_EVERY = 5  # steps between measurements on the start model's answers
SURPRISE_ANSWERS = 8  # the number of a process's answers whose surprise is measured in each step
PROBE_ANSWERS = 32  # the number of initial answers
LOST_NATS = 1.0  # fall in log-probability from which a token counts as lost


@dataclass(frozen=True)
class InitialAnswers:
    """Answers of the initial policy as token ids, with the log-probability that it gave to each token."""

    prompts: list[list[int]]
    completions: list[list[int]]
    logps: list[list[float]]


class CollapseGuard(TrainerCallback):
    """Feeds a CollapseDetector with a trainer's steps; with `stops` ends training. Add it after the MetricsCallback.

    `row` returns the step's metrics, `answers` this process's prompts and completions; `start` is the start model;
    `anchored` is as for CollapseDetector. Each row of guard.jsonl holds the measures, the score (1 warns, 2 stops) and
    the level. `stopped` holds the reasons once the guard has stopped the run.
    """

    def __init__(
        self,
        run: RunDirectory,
        trainer: BaseTrainer,
        row: Callable[[], dict],
        answers: Callable[[], LatestAnswers],
        stops: bool,
        anchored: bool,
        start: StartModel | None = None,
    ) -> None:
        self.run, self.trainer, self.row, self.answers, self.stops = run, trainer, row, answers, stops
        self.detector = CollapseDetector(anchored)
        self.start = start
        self.stopped: list[str] = []
        self._initial: InitialAnswers | None = None
        self._interactions = self._probed = 0  # of the last step that was measured; the step of the last probe

    def on_train_begin(self, args, state, control, **_) -> None:
        """Restore the state of a resumed run from its files. A checkpoint's own record of the best is a save behind."""
        interim = {path.name for path in self.run.interim_checkpoints()}
        saved = [step for step in self.run.checkpoints() if f"checkpoint-{step}" not in interim]
        saved = [step for step in saved if step <= state.global_step]
        state.best_model_checkpoint = None
        for row in self.run.read_rows(FILE):
            if row["step"] > state.global_step:
                break
            while saved and saved[0] < row["step"]:
                self._remember_best(args, state, saved.pop(0))
            self.detector.observe(row["measures"])
            self._interactions = row["interactions"]
            self._probed = row["step"] if "kl" in row["measures"] else self._probed
        for step in saved:
            self._remember_best(args, state, step)
        if (answers := self.run.read_json(START_FILE)) is not None:
            self._initial = InitialAnswers(**answers)

    def on_pre_optimizer_step(self, args, state, control, **_) -> None:
        """Before the first update, keep some of the policy's answers with their log-probabilities."""
        if self._initial is not None:
            return
        latest = self.answers()
        rows = gather_object(list(zip(latest.prompts, latest.completions, strict=True)))[:PROBE_ANSWERS]
        prompts, completions = [row[0] for row in rows], [row[1] for row in rows]
        self._initial = InitialAnswers(prompts, completions, self._logps(prompts, completions))
        if self.trainer.accelerator.is_main_process:
            self.run.write_json(START_FILE, asdict(self._initial))

    def on_step_end(self, args, state, control, **_) -> None:
        """Evaluate the step; all processes reach the same decision.

        A further pass over the same answers (ITERATIONS) is no step here: what is odd in them would count twice.
        """
        row, names = self.row(), ("repetition", "entropy", "signal_size", "satisfied")
        if row["interactions"] == self._interactions:
            return
        self._interactions = row["interactions"]
        measures = {name: row[name] for name in names} | {"length": row["completion_tokens"]}
        if probes := state.global_step - self._probed >= PROBE_EVERY:
            self._probed = state.global_step
            if self._initial is not None:
                measures |= self._distance_from_start(self._initial)
        if self.start is not None:
            measures |= self._by_start_model(self.start, probes)
        before, level = self.detector.level, self.detector.observe(measures)
        if self.trainer.accelerator.is_main_process:
            rounded = {name: round(value, 5) for name, value in measures.items()}
            guard_row = {"step": state.global_step, "interactions": row["interactions"], "measures": rounded}
            self.run.append(FILE, [guard_row | {"score": round(self.detector.score, 4), "level": level}])
            if level > before:
                print(f"guard: step {state.global_step}: {'; '.join(self.detector.reasons)}", flush=True)
        if level == STOP and self.stops:
            self.stopped = self.detector.reasons
            control.should_training_stop = True

    def on_save(self, args, state, control, **_) -> None:
        """Remember the last healthy checkpoint as the best one: SAVE_LIMIT then keeps it.

        Until there is one, the last whose measures are within their limits. A state beyond them is never the best, nor
        is an interim checkpoint, which the next one replaces.
        """
        if not self.trainer.is_interim:
            self._remember_best(args, state, state.global_step)

    def _remember_best(self, args: TrainingArguments, state: TrainerState, step: int) -> None:
        if self.detector.is_healthy or (state.best_model_checkpoint is None and self.detector.within_limits):
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{step}"

    def _by_start_model(self, start: StartModel, probes: bool) -> dict[str, float]:
        """Return the surprise of the step's answers and, now and then, the distance on general prompts."""
        latest, measures = self.answers(), {}
        if latest.messages:
            rows = slice(SURPRISE_ANSWERS)
            answers = latest.messages[rows], latest.completions[rows]
            # A teacher that is the start model has just read them; its hidden states save a forward pass.
            if latest.bare_hidden is not None and start.model is self.trainer.hindsight.teacher:
                surprises = gather_object(start.surprise_of_hidden(latest.bare_hidden[rows], answers[1]))
            else:
                surprises = gather_object(start.surprise(*answers))
            # A second forward pass only where the first gives cause: what is learned is likely once the wish is shown.
            if start.wish is not None and fmean(surprises) > LIMITS["surprise"].warn / 2:
                shown = gather_object(start.surprise(*answers, shown=True))
                surprises = [min(pair) for pair in zip(surprises, shown, strict=True)]
            measures["surprise"] = fmean(surprises)
        if probes and (distance := start.distance(self.trainer.model)) is not None:
            measures["distance"] = distance
        return measures

    def _distance_from_start(self, initial: InitialAnswers) -> dict[str, float]:
        logps = self._logps(initial.prompts, initial.completions)
        falls = [
            old - new
            for before, now in zip(initial.logps, logps, strict=True)
            for old, new in zip(before, now, strict=True)
        ]
        return {"lost": fmean(fall > LOST_NATS for fall in falls), "kl": fmean(falls)}

    @torch.no_grad()
    def _logps(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float]]:
        """Return log π of each completion token under the current policy; each process scores a share of the rows."""
        trainer, model, count = self.trainer, self.trainer.model, len(prompts)
        rank, ranks = trainer.accelerator.process_index, trainer.accelerator.num_processes
        # The same number on every process: under FSDP all processes have to run the same forwards.
        indices = [index % count for index in range(rank, -(-count // ranks) * ranks, ranks)]
        rank_completions = [completions[index] for index in indices]
        was_training = model.training
        model.eval()
        rank_prompts = [prompts[index] for index in indices]
        logps_BT = score(model, rank_prompts, rank_completions, trainer.args.per_device_train_batch_size).logps_BT
        model.train(was_training)
        rows = [row[: len(ids)] for row, ids in zip(logps_BT.tolist(), rank_completions, strict=True)]
        by_index = dict(gather_object(list(zip(indices, rows, strict=True))))
        return [by_index[index] for index in range(count)]
