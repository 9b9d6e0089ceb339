"""One run of the job's trainer on the tiny world with users by rule, read by the oracle as it goes.

`sdpo.study.job` says which runs make the study and what becomes of them.
"""

import itertools
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random

from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback

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
from sdpo.train import guard
from sdpo.train.answers import read_completions
from sdpo.train.callbacks import MetricsCallback, TeacherCallback
from sdpo.train.online.trainer import OnlineConfig, OnlineTrainer
from sdpo.train.teacher_refresh import TeacherRefreshCallback

PAPER = Objective()
BATCH = 16
RATE, BETA1 = 1.5e-4, 0.5
FOCUS = 1.0  # nats: a complaint moves one word by more, most by 3 to 12; thanks and small talk none by more than 0.35
LEARNED = 0.95
COLLAPSED = 0.9  # a run whose validity over five steps goes under this, and never comes back, has fallen
SMOOTH = 5
LOST, LOST_STEPS = 0.5, 10  # past help: the validity of so many steps in a row, each under this


@dataclass(frozen=True)
class Spec:
    """A run: `styles` follow each other, each for `interactions` or, `until_learned`, only until it is (`learned`).

    Readings are at `points` of each style. Without `related` the user talks of something else. `until_fallen` ends a
    run that is past help.
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
        """The name of the run in the file of results: everything that makes it what it is."""
        return repr(asdict(self))


def objective_of(text: str) -> Objective:
    """Return the objective of `kind[/direction][+null][+focus]`, the last with FOCUS."""
    name, *more = text.split("+")
    kind, _, direction = name.partition("/")
    return Objective(
        kind=kind,
        direction=direction or "reverse",
        null_contrast="null" in more,
        focus=FOCUS if "focus" in more else 0.0,
    )


class OracleReadings(TrainerCallback):
    """Reads fresh answers at each point, changes the user's taste after each phase, keeps each step's validity."""

    def __init__(self, trainer: OnlineTrainer, spec: Spec, row) -> None:
        self.trainer, self.spec, self.row = trainer, spec, row
        self.curve: list[dict] = []
        self.validities: list[float] = []
        self.phase, self.begun = 0, 0

    def read(self, interactions: int) -> None:
        """Add a point to the curve: what the style of the phase gets, and what is kept of each so far."""
        tokenizer, spec = self.trainer.processing_class, self.spec
        asked = [message_of(row.prompt) for row in posts(spec.answers, 1000 + interactions, True, "probe")]
        ids = [encode_prompt(tokenizer, messages) for messages in asked]
        answers = generate(self.trainer.model, tokenizer, ids, 48, 512, temperature=1.0, seed=interactions)
        texts, given = [text for text, _ in answers], [messages[-1]["content"] for messages in asked]
        seen = {
            style: oracle.summarize(given, texts, oracle.wants_of(style)) for style in spec.styles[: self.phase + 1]
        }
        style = spec.styles[self.phase]
        self.curve.append(
            {
                "interactions": interactions,
                "phase": self.phase,
                "style": style,
                "since": interactions - self.begun,
                "kept": {name: read["adherence"] for name, read in seen.items()},
                **seen[style],
            }
        )

    def on_step_end(self, args, state, control, **_) -> None:
        """Read where a point is reached, and let the next taste begin where a phase ends."""
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
        elif spec.related:
            self.trainer.user.wanted = oracle.wants_of(spec.styles[self.phase])


def learned(curve: list[dict], phase: int) -> int | None:
    """Return the interactions after which two readings in a row found a phase's style learned; None: never."""
    points = [point for point in curve if point["phase"] == phase and point["since"] > 0]
    for first, second in itertools.pairwise(points):
        if min(first["adherence"], second["adherence"]) >= LEARNED:
            return second["since"]
    return None


def collapse_point(validities: list[float]) -> int | None:
    """Return the interactions after which a run's validity, over five steps, was under COLLAPSED for good.

    A short dip while a taste is learned is none: the policy has stopped one habit and not yet settled on another.
    """
    fell = None
    for end in range(SMOOTH, len(validities) + 1):
        low = sum(validities[end - SMOOTH : end]) / SMOOTH < COLLAPSED
        fell = (fell or end * BATCH) if low else None
    return fell


def message_of(prompt: str) -> list[dict[str, str]]:
    """Return the messages of a tiny prompt, as the online job makes them."""
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
    **config,
) -> OnlineTrainer:
    """Return the online job's trainer on the tiny world, with the settings of the study unless told otherwise."""
    tokenizer, model = load_model(str(MODEL_DIR), four_bit=four_bit)
    looking_back = Teacher(teacher, model, adapter=peft_config is not None)
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
        teacher=looking_back,
        objective=objective,
        unrelated_follow_up=language.write_unrelated(Random(0)),
        is_satisfied=oracle.is_satisfied,
        args=OnlineConfig(**{**arguments, **config}),
        train_dataset=Dataset.from_list([{"prompt": message_of(row.prompt)} for row in rows]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TeacherCallback(trainer, looking_back))
    return trainer


def run_one(spec: Spec) -> dict:
    """Return the run's curve, where it fell (None: nowhere), and where the guard warned and would have stopped it."""
    started = time.monotonic()
    wanted = oracle.wants_of(spec.styles[0])
    user = OracleUser(wanted, spec.seed) if spec.related else UnrelatedUser(spec.seed)
    steps = spec.interactions * len(spec.styles) // BATCH
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, spec.teacher, spec.seed, steps, user, objective_of(spec.objective))
        run = RunDirectory(Path(folder))
        recorder = MetricsCallback(run, trainer, 0, partial(read_completions, oracle=oracle.TinyOracle(spec.styles[0])))
        probe = OracleReadings(trainer, spec, lambda: recorder.row)
        trainer.add_callback(recorder)
        if spec.teacher == "gated":
            trainer.add_callback(TeacherRefreshCallback(run, trainer, trainer.hindsight.teacher, lambda: recorder.row))
        seen = (lambda: recorder.row), (lambda: trainer.latest)
        trainer.add_callback(guard.CollapseGuard(run, trainer, *seen, stops=False, anchored=spec.teacher in FIXED))
        trainer.add_callback(probe)
        probe.read(0)
        trainer.train()
        curve = [{name: row[name] for name in ("interactions", "measures")} for row in run.read_rows(guard.FILE)]
    return {
        "spec": asdict(spec),
        "curve": probe.curve,
        "fell": collapse_point(probe.validities),
        "lowest": min(probe.validities),
        **judged(spec.teacher, curve),
        "guard": curve,
        "seconds": round(time.monotonic() - started),
    }


def judged(teacher: str, curve: list[dict]) -> dict:
    """Return the interactions after which the guard, as it is now, warns of a run and stops it; None: never."""
    detector = guard.CollapseDetector(teacher in FIXED)
    levels = [(row["interactions"], detector.observe(row["measures"])) for row in curve]
    return {
        name: next((at for at, reached in levels if reached >= level), None)
        for name, level in (("warned", guard.WARN), ("stopped", guard.STOP))
    }


def train(teacher: str, objective: str, seed: int, points=(480,), related: bool = True) -> list[dict]:
    """Return the curve of one run on no_emojis: an oracle reading at the start and at each point."""
    spec = Spec(teacher, objective, seed, interactions=max(points), points=tuple(points), related=related)
    return run_one(spec)["curve"]
