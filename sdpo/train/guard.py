"""The guard: detects policy collapse during training, warns, then stops the run.

A policy that learns a style changes a few choices: which word begins the answer, whether there is an emoji. One that
collapses changes everywhere. The guard's main measure distinguishes the two without a second model: the share of
tokens in the initial policy's own answers that have become improbable. The other measures come from each step's
answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from sdpo.method.scoring import score
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.record import BaseTrainer, LatestAnswers
from sdpo.train.start_model import StartModel

FILE = "guard.jsonl"
START_FILE = "guard-start.json"
OK, WARN, STOP = 0, 1, 2

PROBE_EVERY = 5  # steps between measurements on the start model's answers
SURPRISE_ANSWERS = 8  # the number of a process's answers whose surprise is measured in each step
PROBE_ANSWERS = 32  # the number of initial answers
LOST_NATS = 1.0  # fall in log-probability from which a token counts as lost
FROM_START = ("lost", "kl", "distance")  # measured as differences, on the same answers each time: need no smoothing
BASELINE = 3  # first steps, whose mean is a measure's baseline
SMOOTHING = 0.5  # weight of the previous value in the exponential moving average
PATIENCE = 2  # consecutive steps beyond a limit before the guard warns or stops
# With this share of satisfied users for this many steps, nothing is left to learn.
SATISFIED, SETTLED = 0.95, 20


@dataclass(frozen=True)
class Limit:
    """How far a measure may move from its baseline: by `warn` and `stop`, as a difference or, with `ratio`, a factor.

    A rise counts; with `falling` a fall does, with `both_directions` (of a ratio) either.
    """

    description: str
    warn: float
    stop: float
    ratio: bool = False
    both_directions: bool = False
    falling: bool = False

    def distance(self, value: float, start: float) -> float:
        """Return the value's distance from the baseline `start`: 1.0 at the warning, 2.0 at the stop."""
        if self.ratio:
            moved = max(value, 1e-6) / max(start, 1e-6)
            moved = max(moved, 1 / moved) if self.both_directions else 1 / moved if self.falling else moved
            begin = 1.0
        else:
            moved, begin = (start - value if self.falling else value - start), 0.0
        if moved <= self.warn:
            return max(0.0, (moved - begin) / (self.warn - begin))
        return 1.0 + min(1.0, (moved - self.warn) / (self.stop - self.warn))


# The last three can take any value in a run that learns well, above all with a frozen teacher: they only warn.
NEVER = 1e9
LIMITS = {
    "lost": Limit("of the initial answers' tokens have become improbable", 0.10, 0.16),
    "surprise": Limit("nats per token less likely than the start model's own answers", 0.2, 0.35),
    "distance": Limit("nats per token from the start model on general prompts", 0.15, 0.3),
    "repetition": Limit("of the answers' trigrams are repetitions", 0.15, 0.30),
    "entropy": Limit("nats of entropy per token", 2.5, 4.0, ratio=True),
    "length": Limit("tokens per answer", 5.0, 12.0, ratio=True, both_directions=True),
    "drift": Limit("nats per token of drift since users became satisfied", 0.04, 0.06),
    "kl": Limit("nats per token from the initial policy", 3.0, NEVER),
    "signal_size": Limit("nats of signal per token", 4.0, NEVER, ratio=True),
    "satisfied": Limit("of the users satisfied", 0.25, NEVER, falling=True),
}


@dataclass
class CollapseDetector:
    """The guard's decision, without a trainer: call `observe` with each step's measures.

    `score` is then the largest distance of a measure from its baseline (1 warns, 2 stops), `level` OK, WARN or STOP,
    and `reasons` describes the measures beyond their limits. `anchored` is whether the teacher is fixed: a policy that
    still changes then moves towards it, which is no drift.
    """

    anchored: bool = False
    starts: dict[str, list[float]] = field(default_factory=dict)
    smooth: dict[str, float] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    best_satisfied: float = 0.0
    satisfied_steps: int = 0
    settled_at: float | None = None
    score: float = 0.0
    level: int = OK
    reasons: list[str] = field(default_factory=list)
    _steps_beyond: list[int] = field(default_factory=lambda: [0, 0])

    def observe(self, values: dict[str, float]) -> int:
        """Add a step's measures and return the level. Any of them may be missing: its last distance then stays."""
        for name, value in values.items():
            self._take(name, value)
        # A policy that learns to be brief makes the tokens of its long answers improbable. Answers that fit the style
        # already say better what was lost: where they are measured and unharmed, the initial ones do not count.
        if self.distances.get("distance", 1.0) < 1.0:
            self.distances.pop("lost", None)
        self._watch_drift(values.get("kl"))
        self.score = max(self.distances.values(), default=0.0)
        for index, limit in enumerate((1.0, 2.0)):
            self._steps_beyond[index] = self._steps_beyond[index] + 1 if self.score >= limit else 0
        to_warn, to_stop = (steps >= PATIENCE for steps in self._steps_beyond)
        self.level = STOP if to_stop else WARN if to_warn else OK
        beyond = (name for name, distance in self.distances.items() if distance >= 1)
        worst = sorted(beyond, key=self.distances.__getitem__, reverse=True)
        self.reasons = [f"{self.smooth[name]:.3g} {LIMITS[name].description}" for name in worst]
        return self.level

    def _take(self, name: str, value: float) -> None:
        """Update the distance of one measure from its baseline."""
        if name in FROM_START:
            self.smooth[name], start = value, 0.0
        elif name == "surprise":  # 0 for the start model itself
            self.smooth[name] = SMOOTHING * self.smooth.get(name, 0.0) + (1 - SMOOTHING) * value
            start = 0.0
        else:
            first_values = self.starts.setdefault(name, [])
            if len(first_values) < BASELINE:
                first_values.append(value)
            start = fmean(first_values)
            self.smooth[name] = SMOOTHING * self.smooth.get(name, value) + (1 - SMOOTHING) * value
        if name == "satisfied":
            self.best_satisfied = start = max(self.best_satisfied, self.smooth[name])
        self.distances[name] = LIMITS[name].distance(self.smooth[name], start)

    def _watch_drift(self, kl: float | None) -> None:
        """Measure how far the policy still moves after users have been satisfied for SETTLED steps."""
        if self.anchored:
            return
        satisfied = self.smooth.get("satisfied", 0.0) >= SATISFIED
        self.satisfied_steps = self.satisfied_steps + 1 if satisfied else 0
        if self.satisfied_steps < SETTLED:
            self.settled_at = None
            self.distances.pop("drift", None)
        elif kl is not None:
            self.settled_at = kl if self.settled_at is None else min(self.settled_at, kl)
            self.smooth["drift"] = kl - self.settled_at
            self.distances["drift"] = LIMITS["drift"].distance(self.smooth["drift"], 0.0)

    @property
    def within_limits(self) -> bool:
        """Whether no measure is beyond its warning, confirmed or not."""
        return self.score < 1 and self.level == OK

    @property
    def is_healthy(self) -> bool:
        """Whether no measure is near its warning, so that a checkpoint saved now is a good one."""
        return self.score < 0.75 and self.level == OK


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
        """Restore the state of a resumed run from its files."""
        for row in self.run.read_rows(FILE):
            if row["step"] <= state.global_step:
                self.detector.observe(row["measures"])
                self._interactions = row["interactions"]
                self._probed = row["step"] if "kl" in row["measures"] else self._probed
        if (saved := self.run.read_json(START_FILE)) is not None:
            self._initial = InitialAnswers(**saved)

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
        if self.trainer.is_interim:
            return
        if self.detector.is_healthy or (state.best_model_checkpoint is None and self.detector.within_limits):
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"

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


def repeated_share(ids: Sequence[int], length: int = 3) -> float:
    """Return the share of an answer's n-grams (n = `length`) that repeat an earlier one; 0 for a shorter answer."""
    ngrams = [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
