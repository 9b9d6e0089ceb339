"""The guard: watches a run for signs that the policy is coming apart, says so, then stops it.

A policy that learns a taste changes a few choices: which word begins the answer, whether there is an emoji. One that
comes apart changes all over. The guard's main measure tells these apart without a second model: the share of the
tokens of the start's own answers that have become improbable. The others are read from each step's answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

from sdpo.method.scoring import score
from sdpo.runtime.run_directory import RunDirectory

FILE = "guard.jsonl"
START_FILE = "guard-start.json"
OK, WARN, STOP = 0, 1, 2

PROBE_EVERY = 5  # steps between looks at the start's answers
PROBE_ANSWERS = 32  # the start's answers that are looked at
LOST_NATS = 1.0  # nats by which a token's log-probability must have fallen to count as lost
FROM_START = ("lost", "kl")  # differences already, of the same answers each time: nothing to smooth
BASELINE = 3  # steps whose mean is what the run began with
SMOOTHING = 0.5  # how much of a smoothed value the next step keeps
PATIENCE = 2  # steps in a row that it takes to warn or to stop
SATISFIED, SETTLED = (
    0.95,
    20,
)  # a share of satisfied users, and for how many steps, after which nothing is left to learn


@dataclass(frozen=True)
class Limit:
    """How far a measure may go from where it began: `warn` and `stop`, as a difference or, with `ratio`, a factor."""

    description: str
    warn: float
    stop: float
    ratio: bool = False
    both_directions: bool = False
    falling: bool = False

    def distance(self, value: float, start: float) -> float:
        """Return how far the value is on its way to a warning (1.0) and to a stop (2.0)."""
        if self.ratio:
            moved = max(value, 1e-6) / max(start, 1e-6)
            moved = max(moved, 1 / moved) if self.both_directions else 1 / moved if self.falling else moved
            begin = 1.0
        else:
            moved, begin = (start - value if self.falling else value - start), 0.0
        if moved <= self.warn:
            return max(0.0, (moved - begin) / (self.warn - begin))
        return 1.0 + min(1.0, (moved - self.warn) / (self.stop - self.warn))


# Of the last three a run that learns well may have any value, against a frozen teacher above all: they warn and
# never stop by themselves.
NEVER = 1e9
LIMITS = {
    "lost": Limit("of the start's own words have become improbable", 0.10, 0.16),
    "repetition": Limit("of the answers' words are repetition", 0.15, 0.30),
    "entropy": Limit("nats of entropy a token", 2.5, 4.0, ratio=True),
    "length": Limit("tokens an answer", 5.0, 12.0, ratio=True, both_directions=True),
    "drift": Limit("nats a token of drift since the users were content", 0.04, 0.06),
    "kl": Limit("nats a token away from the start", 3.0, NEVER),
    "signal_size": Limit("nats of signal a token", 4.0, NEVER, ratio=True),
    "satisfied": Limit("of the users satisfied", 0.25, NEVER, falling=True),
}


@dataclass
class CollapseDetector:
    """The guard's judgement, free of any trainer: `observe` a step's measures, read `level`, `score` and `reasons`.

    `anchored` is whether the teacher stands still: a policy that still moves moves towards it, and that is no drift.
    """

    anchored: bool = False
    starts: dict[str, list[float]] = field(default_factory=dict)
    smooth: dict[str, float] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    best_satisfied: float = 0.0
    content: int = 0
    settled_at: float | None = None
    score: float = 0.0
    level: int = OK
    reasons: list[str] = field(default_factory=list)
    _held: list[int] = field(default_factory=lambda: [0, 0])

    def observe(self, values: dict[str, float]) -> int:
        """Take in a step's measures, of which any may be missing, and return the level they bring it to."""
        for name, value in values.items():
            self._take(name, value)
        self._watch_drift(values.get("kl"))
        self.score = max(self.distances.values(), default=0.0)
        for place, level in enumerate((1.0, 2.0)):
            self._held[place] = self._held[place] + 1 if self.score >= level else 0
        self.level = STOP if self._held[1] >= PATIENCE else WARN if self._held[0] >= PATIENCE else OK
        worst = sorted((name for name, far in self.distances.items() if far >= 1), key=self.distances.get, reverse=True)
        self.reasons = [f"{self.smooth[name]:.3g} {LIMITS[name].description}" for name in worst]
        return self.level

    def _take(self, name: str, value: float) -> None:
        """Update how far one measure has gone; it stands until the measure is taken again."""
        if name in FROM_START:
            self.smooth[name], start = value, 0.0
        else:
            began = self.starts.setdefault(name, [])
            if len(began) < BASELINE:
                began.append(value)
            start = fmean(began)
            self.smooth[name] = SMOOTHING * self.smooth.get(name, value) + (1 - SMOOTHING) * value
        if name == "satisfied":
            self.best_satisfied = start = max(self.best_satisfied, self.smooth[name])
        self.distances[name] = LIMITS[name].distance(self.smooth[name], start)

    def _watch_drift(self, kl: float | None) -> None:
        """Measure how far the policy goes on moving where nobody has complained for long."""
        if self.anchored:
            return
        self.content = self.content + 1 if self.smooth.get("satisfied", 0.0) >= SATISFIED else 0
        if self.content < SETTLED:
            self.settled_at = None
            self.distances.pop("drift", None)
        elif kl is not None:
            self.settled_at = kl if self.settled_at is None else min(self.settled_at, kl)
            self.smooth["drift"] = kl - self.settled_at
            self.distances["drift"] = LIMITS["drift"].distance(self.smooth["drift"], 0.0)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is near a warning: a checkpoint saved now is a good one."""
        return self.score < 0.75


class CollapseGuard(TrainerCallback):
    """Feeds a Watch from a trainer's steps; with `stops` ends training. Goes behind the MetricsCallback.

    `row` gives the step's metrics, `answers` the prompts and completions (ids) that this process had in it;
    `anchored` is as for Watch.
    Rows of guard.jsonl hold the measures, the score (1 warns, 2 stops) and the level. `stopped` has the reasons.
    """

    def __init__(
        self,
        run: RunDirectory,
        trainer: Trainer,
        row: Callable[[], dict],
        answers: Callable[[], tuple[list[list[int]], list[list[int]]]],
        stops: bool,
        anchored: bool,
    ) -> None:
        self.run, self.trainer, self.row, self.answers, self.stops = run, trainer, row, answers, stops
        self.detector = CollapseDetector(anchored)
        self.stopped: list[str] = []
        self._start: dict | None = None

    def on_train_begin(self, args, state, control, **_) -> None:
        """Go on from what an earlier part of the run saw."""
        for row in self.run.read_rows(FILE):
            if row["step"] <= state.global_step:
                self.detector.observe(row["measures"])
        self._start = self.run.read_json(START_FILE)

    def on_pre_optimizer_step(self, args, state, control, **_) -> None:
        """Before the first update, keep some of the start's answers and how probable they are to it."""
        if self._start is not None:
            return
        prompts, completions = self.answers()
        rows = gather_object(list(zip(prompts, completions, strict=True)))[:PROBE_ANSWERS]
        self._start = {"prompts": [row[0] for row in rows], "completions": [row[1] for row in rows]}
        self._start["logps"] = self._logps()
        if self.trainer.accelerator.is_main_process:
            self.run.write_json(START_FILE, self._start)

    def on_step_end(self, args, state, control, **_) -> None:
        """Judge the step; all processes come to the same judgement."""
        row, names = self.row(), ("repetition", "entropy", "signal_size", "satisfied")
        measures = {name: row[name] for name in names} | {"length": row["completion_tokens"]}
        if state.global_step % PROBE_EVERY == 0:
            measures |= self._distance_from_start()
        before, level = self.detector.level, self.detector.observe(measures)
        main = self.trainer.accelerator.is_main_process
        if main:
            rounded = {name: round(value, 5) for name, value in measures.items()}
            seen = {"step": state.global_step, "interactions": row["interactions"], "measures": rounded}
            self.run.append(FILE, [seen | {"score": round(self.detector.score, 4), "level": level}])
            if level > before:
                print(f"guard: step {state.global_step}: {'; '.join(self.detector.reasons)}", flush=True)
        if level == STOP and self.stops:
            self.stopped = self.detector.reasons
            control.should_training_stop = True

    def on_save(self, args, state, control, **_) -> None:
        """Remember the last checkpoint that nothing speaks against: SAVE_LIMIT then keeps it."""
        if self.detector.is_healthy or state.best_model_checkpoint is None:
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"

    def _distance_from_start(self) -> dict[str, float]:
        falls = [
            old - new
            for before, now in zip(self._start["logps"], self._logps(), strict=True)
            for old, new in zip(before, now, strict=True)
        ]
        return {"lost": fmean(fall > LOST_NATS for fall in falls), "kl": fmean(falls)}

    @torch.no_grad()
    def _logps(self) -> list[list[float]]:
        """Return log π of each token of the start's answers by the policy as it is; each process scores a share."""
        trainer, (rank, ranks) = self.trainer, _ranks(self.trainer)
        count = len(self._start["prompts"])
        # As many for every process: where they share out the weights, all of them have to run the same forwards.
        mine = [place % count for place in range(rank, -(-count // ranks) * ranks, ranks)]
        completions = [self._start["completions"][place] for place in mine]
        model, was_training = trainer.model, trainer.model.training
        model.eval()
        prompts = [self._start["prompts"][place] for place in mine]
        logps_BT = score(model, prompts, completions, trainer.args.per_device_train_batch_size).logps_BT
        model.train(was_training)
        rows = [row[: len(ids)] for row, ids in zip(logps_BT.tolist(), completions, strict=True)]
        found = dict(gather_object(list(zip(mine, rows, strict=True))))
        return [found[place] for place in range(count)]


def _ranks(trainer: Trainer) -> tuple[int, int]:
    return trainer.accelerator.process_index, trainer.accelerator.num_processes


def repeated_share(ids: Sequence[int], length: int = 3) -> float:
    """Return the share of an answer's runs of `length` tokens that it has said before; 0 for a short one."""
    runs = [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
