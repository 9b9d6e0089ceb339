"""One run of the online trainer on the tiny world with rule-based users, evaluated by the oracle during training.

`sdpo.study.job` defines which runs the study consists of and how their results are reported.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from sdpo.method.objective import Objective
from sdpo.method.teacher import FIXED, Teacher
from sdpo.models.generate import generate
from sdpo.models.policy import load_model
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.chat import encode_prompt
from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR, language, oracle
from sdpo.tiny.data import SUFFIX, posts
from sdpo.tiny.users import OracleUser, UnrelatedUser
from sdpo.tiny.world import TinyOracle
from sdpo.train import collapse, guard
from sdpo.train.answers import read_completions
from sdpo.train.callbacks import MetricsCallback, TeacherCallback
from sdpo.train.online.sampling import OnlineConfig
from sdpo.train.online.trainer import OnlineTrainer
from sdpo.train.teacher_refresh import TeacherRefreshCallback

PAPER = Objective()
BATCH = 16
RATE, BETA1 = 1.5e-4, 0.5
# In nats: a complaint moves one word of the answer by more, most complaints by 3 to 12; thanks and small talk move none
# by more than 0.35.
FOCUS = 1.0
LEARNED = 0.95  # a style is learned when the adherence of two consecutive readings is at least this
COLLAPSED = 0.9  # a run has collapsed when its mean validity over SMOOTH steps falls below this and stays there
SMOOTH = 5
LOST, LOST_STEPS = 0.5, 10  # `until_fallen` ends a run whose validity was below LOST in LOST_STEPS consecutive steps


@dataclass(frozen=True)
class Spec:
    """One run of the study.

    The user has one of `styles` after the other, each for `interactions` or, with `until_learned`, only until it is
    learned (see `learned`). The oracle reads `answers` sampled answers at each of `points` (interactions since the
    style began) and at the end of a style. Without `related` the follow-ups have nothing to do with the answers.
    `until_fallen` ends a run whose policy has collapsed for good (LOST).
    """

    teacher: str
    objective: str
    seed: int
    styles: tuple[str, ...] = ("no_emojis",)
    interactions: int = 1600
    points: tuple[int, ...] = (160, 320, 480, 1600)
    related: bool = True
    answers: int = 512
    until_learned: bool = False
    until_fallen: bool = False

    @property
    def key(self) -> str:
        """The key of the run in the results file: all of its fields."""
        return repr(asdict(self))


def objective_of(text: str) -> Objective:
    """Return the objective written as `kind[/direction][+null][+focus]`; `+focus` sets its focus to FOCUS."""
    name, *options = text.split("+")
    kind, _, direction = name.partition("/")
    return Objective(
        kind=kind,
        direction=direction or "reverse",
        null_contrast="null" in options,
        focus=FOCUS if "focus" in options else 0.0,
    )


class OracleReadings(TrainerCallback):
    """Samples and reads answers at each point, changes the user's style after each phase, records the validity.

    `user` is the user whose style changes, None for one without a style; `row` returns the metrics of the last step.
    `curve` has a row per reading, `validities` the validity of every step.
    """

    def __init__(
        self, trainer: OnlineTrainer, user: OracleUser | None, spec: Spec, row: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.trainer, self.user, self.spec, self.row = trainer, user, spec, row
        self.curve: list[dict] = []
        self.validities: list[float] = []
        self.phase, self.begun = 0, 0

    def read(self, interactions: int) -> None:
        """Add a reading to the curve: the adherence to the current style and, as `kept`, to each style so far."""
        tokenizer, spec = self.trainer.processing_class, self.spec
        prompts = [messages_of(row.prompt) for row in posts(spec.answers, 1000 + interactions, True, "probe")]
        ids = [encode_prompt(tokenizer, messages) for messages in prompts]
        answers = generate(self.trainer.model, tokenizer, ids, 48, 512, temperature=1.0, seed=interactions)
        texts, post_texts = [text for text, _ in answers], [messages[-1]["content"] for messages in prompts]
        summaries = {
            style: oracle.summarize(post_texts, texts, oracle.wants_of(style))
            for style in spec.styles[: self.phase + 1]
        }
        style = spec.styles[self.phase]
        self.curve.append(
            {
                "interactions": interactions,
                "phase": self.phase,
                "style": style,
                "since": interactions - self.begun,
                "kept": {name: summary["adherence"] for name, summary in summaries.items()},
                **summaries[style],
            }
        )

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read the answers if this step is a point of the curve; start the next style if a phase ends."""
        done, spec = state.global_step * BATCH, self.spec
        self.validities.append(self.row()["validity"])
        since = done - self.begun
        over = since == spec.interactions or (spec.until_fallen and max(self.validities[-LOST_STEPS:]) < LOST)
        if over or since in spec.points:
            self.read(done)
            over = over or (spec.until_learned and learned(self.curve, self.phase) is not None)
        if not over:
            return
        self.phase, self.begun = self.phase + 1, done
        if self.phase == len(spec.styles):
            control.should_training_stop = True
        elif self.user is not None:
            self.user.wanted = oracle.wants_of(spec.styles[self.phase])


def learned(curve: list[dict], phase: int) -> int | None:
    """Return the interactions after which the style of a phase was learned: two consecutive readings of LEARNED.

    Counted from the beginning of the phase; None if the style was never learned.
    """
    points = [point for point in curve if point["phase"] == phase and point["since"] > 0]
    for first, second in itertools.pairwise(points):
        if min(first["adherence"], second["adherence"]) >= LEARNED:
            return second["since"]
    return None


def collapse_point(validities: list[float]) -> int | None:
    """Return the interactions after which a run collapsed: its mean validity over SMOOTH steps stayed below COLLAPSED.

    None if it did not. A short dip while a style is learned does not count: the policy has stopped one habit and not
    yet settled on another.
    """
    collapsed = None
    for end in range(SMOOTH, len(validities) + 1):
        low = sum(validities[end - SMOOTH : end]) / SMOOTH < COLLAPSED
        collapsed = (collapsed or end * BATCH) if low else None
    return collapsed


def messages_of(prompt: str) -> list[dict[str, str]]:
    """Return the chat messages of a prompt of the tiny world, as the online job builds them."""
    system = {"role": "system", "content": SUMMARY_SYSTEM}
    return [system, {"role": "user", "content": prompt.removesuffix(SUFFIX)}]


def build_trainer(
    folder: str,
    teacher: str,
    seed: int,
    steps: int,
    user: OracleUser | UnrelatedUser,
    objective: Objective = PAPER,
    peft_config: LoraConfig | None = None,
    four_bit: bool = False,
    **config: Any,
) -> OnlineTrainer:
    """Return the online job's trainer on the tiny world; `config` overrides the study's training arguments."""
    tokenizer, model = load_model(str(MODEL_DIR), four_bit=four_bit)
    teacher_model = Teacher(teacher, model, adapter=peft_config is not None)
    arguments = {
        "output_dir": folder, "seed": seed, "learning_rate": RATE, "adam_beta1": BETA1, "max_steps": steps,
        "lr_scheduler_type": "constant", "per_device_train_batch_size": BATCH, "max_completion_length": 48,
        "beta": 0.0, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, "optim": "adamw_torch",
    }  # fmt: skip
    rows = posts(steps * BATCH, 10_000 + seed, False, "study")
    trainer = OnlineTrainer(
        user=user,
        model=model,
        teacher=teacher_model,
        objective=objective,
        null_follow_up=language.write_unrelated(Random(0)),
        is_satisfied=oracle.is_satisfied,
        args=OnlineConfig(**{**arguments, **config}),
        train_dataset=Dataset.from_list([{"prompt": messages_of(row.prompt)} for row in rows]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TeacherCallback(trainer, teacher_model))
    return trainer


def run_one(spec: Spec) -> dict:
    """Do the run and return its row of results.

    It has the curve, the interactions at which the policy collapsed (`fell`), the guard would have warned (`warned`)
    and would have stopped the run (`stopped`), each None if it did not, and the guard's own measures (`guard`).
    """
    started = time.monotonic()
    oracle_user = OracleUser(oracle.wants_of(spec.styles[0]), spec.seed) if spec.related else None
    user = oracle_user or UnrelatedUser(spec.seed)
    steps = spec.interactions * len(spec.styles) // BATCH
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, spec.teacher, spec.seed, steps, user, objective_of(spec.objective))
        run = RunDirectory(Path(folder))
        recorder = MetricsCallback(run, trainer, 0, partial(read_completions, oracle=TinyOracle(spec.styles[0])))
        readings = OracleReadings(trainer, oracle_user, spec, lambda: recorder.row)
        trainer.add_callback(recorder)
        if spec.teacher == "gated":
            trainer.add_callback(TeacherRefreshCallback(run, trainer, trainer.hindsight.teacher, lambda: recorder.row))
        trainer.add_callback(
            guard.CollapseGuard(
                run,
                trainer,
                lambda: recorder.row,
                lambda: trainer.latest,
                stops=False,
                anchored=spec.teacher in FIXED,
            )
        )
        trainer.add_callback(readings)
        readings.read(0)
        trainer.train()
        measures = [{name: row[name] for name in ("interactions", "measures")} for row in run.read_rows(guard.FILE)]
    return {
        "spec": asdict(spec),
        "curve": readings.curve,
        "fell": collapse_point(readings.validities),
        "lowest": min(readings.validities),
        **guard_result(spec.teacher, measures),
        "guard": measures,
        "seconds": round(time.monotonic() - started),
    }


def guard_result(teacher: str, measures: list[dict]) -> dict[str, int | None]:
    """Return the interactions at which the guard, as it is now, would have warned and stopped; None for never.

    `measures` are the guard's measures of each step, as it recorded them in the run.
    """
    detector = collapse.CollapseDetector(teacher in FIXED)
    levels = [(row["interactions"], detector.observe(row["measures"])) for row in measures]
    return {
        name: next((interactions for interactions, reached in levels if reached >= level), None)
        for name, level in (("warned", collapse.WARN), ("stopped", collapse.STOP))
    }


def train(teacher: str, objective: str, seed: int, points: Sequence[int] = (480,), related: bool = True) -> list[dict]:
    """Return the curve of one run on no_emojis: an oracle reading at the start and at each of `points`."""
    spec = Spec(teacher, objective, seed, interactions=max(points), points=tuple(points), related=related)
    return run_one(spec)["curve"]
