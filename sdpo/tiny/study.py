"""One run of the job's trainer on the tiny world with users by rule, read by the oracle as it goes.

`sdpo.tiny.studies` says which runs make the study and what becomes of them.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random

from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback

from sdpo.chat import encode_prompt
from sdpo.generate import generate
from sdpo.objective import Objective
from sdpo.prompts import SUMMARY_SYSTEM
from sdpo.run import RunDirectory
from sdpo.tiny import MODEL_DIR, language, oracle
from sdpo.tiny.data import SUFFIX, posts
from sdpo.tiny.users import OracleUser, UnrelatedUser
from sdpo.train import guard
from sdpo.train.callbacks import Recorder, TeacherKeeper
from sdpo.train.gate import Gate
from sdpo.train.measure import read_step
from sdpo.train.models import load_model
from sdpo.train.online_trainer import OnlineConfig, OnlineTrainer
from sdpo.train.teacher import Teacher

PAPER = Objective()
BATCH = 16
FALLEN = 0.9  # a run whose validity over five steps goes under this, and never comes back, has fallen
SMOOTH = 5


@dataclass(frozen=True)
class Spec:
    """A run: `styles` follow each other, each for `interactions`; without a style the user talks of something else."""

    teacher: str
    objective: str
    seed: int
    styles: tuple[str, ...] = ("no_emojis",)
    interactions: int = 1600
    points: tuple[int, ...] = (160, 320, 480, 1600)
    related: bool = True
    answers: int = 512
    learning_rate: float = 1.5e-4

    @property
    def key(self) -> str:
        """The name of the run in the file of results: everything that makes it what it is."""
        return repr(asdict(self))


def objective_of(text: str) -> Objective:
    """Return the objective of `kind[/direction][+null]`."""
    name, _, contrast = text.partition("+")
    kind, _, direction = name.partition("/")
    return Objective(kind=kind, direction=direction or "reverse", null_contrast=contrast == "null")


class Probe(TrainerCallback):
    """Reads fresh answers at each point, changes the user's taste after each phase, keeps each step's validity."""

    def __init__(self, trainer: OnlineTrainer, spec: Spec, row) -> None:
        self.trainer, self.spec, self.row = trainer, spec, row
        self.curve: list[dict] = []
        self.validities: list[float] = []

    def read(self, interactions: int) -> None:
        """Add a point to the curve: what the style of the phase gets, and what is kept of every style so far."""
        tokenizer, spec = self.trainer.processing_class, self.spec
        asked = [message_of(row.prompt) for row in posts(spec.answers, 1000 + interactions, True, "probe")]
        ids = [encode_prompt(tokenizer, messages) for messages in asked]
        answers = generate(self.trainer.model, tokenizer, ids, 48, 128, temperature=1.0, seed=interactions)
        texts, given = [text for text, _ in answers], [messages[-1]["content"] for messages in asked]
        phase = max(0, interactions - 1) // spec.interactions
        kept = {
            style: oracle.summarize(given, texts, oracle.wants_of(style))["adherence"]
            for style in spec.styles[: phase + 1]
        }
        read = oracle.summarize(given, texts, oracle.wants_of(spec.styles[phase]))
        self.curve.append({"interactions": interactions, "style": spec.styles[phase], "kept": kept, **read})

    def on_step_end(self, args, state, control, **_) -> None:
        """Read where a point is reached, and let the next taste begin where a phase ends."""
        done, spec = state.global_step * BATCH, self.spec
        self.validities.append(self.row()["validity"])
        if done % spec.interactions in spec.points or done % spec.interactions == 0:
            self.read(done)
        if done % spec.interactions == 0 and done // spec.interactions < len(spec.styles) and spec.related:
            self.trainer.user.wanted = oracle.wants_of(spec.styles[done // spec.interactions])


def fall(validities: list[float]) -> int | None:
    """Return the interactions after which a run's validity, over five steps, was under FALLEN for good.

    A short dip while a taste is learned is none: the policy has stopped one habit and not yet settled on another.
    """
    fell = None
    for end in range(SMOOTH, len(validities) + 1):
        low = sum(validities[end - SMOOTH : end]) / SMOOTH < FALLEN
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
        "output_dir": folder, "seed": seed, "learning_rate": 1.5e-4, "max_steps": steps,
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
        is_pleased=oracle.is_pleased,
        args=OnlineConfig(**{**arguments, **config}),
        train_dataset=Dataset.from_list([{"prompt": message_of(row.prompt)} for row in rows]),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TeacherKeeper(trainer, looking_back))
    return trainer


def run_one(spec: Spec) -> dict:
    """Return the run's curve, where it fell (None: nowhere), and where the guard warned and would have stopped it."""
    started = time.monotonic()
    wanted = oracle.wants_of(spec.styles[0])
    user = OracleUser(wanted, spec.seed) if spec.related else UnrelatedUser(spec.seed)
    steps = spec.interactions * len(spec.styles) // BATCH
    with tempfile.TemporaryDirectory() as folder:
        objective, rate = objective_of(spec.objective), {"learning_rate": spec.learning_rate}
        trainer = build_trainer(folder, spec.teacher, spec.seed, steps, user, objective, **rate)
        run = RunDirectory(Path(folder))
        recorder = Recorder(run, trainer, 0, partial(read_step, wanted=wanted))
        probe = Probe(trainer, spec, lambda: recorder.row)
        trainer.add_callback(recorder)
        if spec.teacher == "gated":
            trainer.add_callback(Gate(run, trainer, trainer.hindsight.teacher, lambda: recorder.row))
        trainer.add_callback(guard.Guard(run, trainer, lambda: recorder.row, lambda: trainer.latest, stops=False))
        trainer.add_callback(probe)
        probe.read(0)
        trainer.train()
        seen = run.read_rows(guard.FILE)
    reached = {level: next((row["interactions"] for row in seen if row["level"] >= level), None) for level in (1, 2)}
    return {
        "spec": asdict(spec),
        "curve": probe.curve,
        "fell": fall(probe.validities),
        "lowest": min(probe.validities),
        "warned": reached[guard.WARN],
        "stopped": reached[guard.STOP],
        "guard": [{name: row[name] for name in ("interactions", "measures", "score")} for row in seen],
        "seconds": round(time.monotonic() - started),
    }


def train(teacher: str, seed: int, style: str = "no_emojis", related: bool = True, points=(480,), answers=512) -> list:
    """Return the curve of one run with the paper's objective: an oracle reading at the start and at each point."""
    return run_one(Spec(teacher, "token", seed, (style,), max(points), tuple(points), related, answers))["curve"]
