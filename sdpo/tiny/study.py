"""What each teacher does to the tiny model over 1,600 interactions, several seeds, users by rule.

    python -m sdpo.tiny.study --teachers live frozen --seeds 5 --out study.json

Runs the job's own trainer; only the user needs no server. Each point is read by the oracle from fresh answers.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from sdpo.chat import encode_prompt
from sdpo.evaluate.generate import generate
from sdpo.objective import Objective
from sdpo.prompts import SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR, oracle
from sdpo.tiny.data import SUFFIX, posts
from sdpo.tiny.users import OracleUser, UnrelatedUser
from sdpo.train.callbacks import TeacherKeeper
from sdpo.train.models import load_model
from sdpo.train.online_trainer import OnlineConfig, OnlineTrainer
from sdpo.train.teacher import Teacher

PAPER = Objective()
POINTS = (160, 320, 480, 960, 1600)
BATCH = 16


class Probe(TrainerCallback):
    """Reads fresh answers at each point."""

    def __init__(self, trainer: OnlineTrainer, wanted: dict[str, bool], points: tuple[int, ...], answers: int) -> None:
        self.trainer, self.wanted, self.points, self.answers = trainer, wanted, points, answers
        self.curve: list[dict] = []

    def read(self, interactions: int) -> None:
        """Add a point to the curve."""
        tokenizer = self.trainer.processing_class
        asked = [message_of(row.prompt) for row in posts(self.answers, 1000 + interactions, True, "probe")]
        ids = [encode_prompt(tokenizer, messages) for messages in asked]
        answers = generate(self.trainer.model, tokenizer, ids, 48, 128, temperature=1.0, seed=interactions)
        texts = [text for text, _ in answers]
        read = oracle.summarize([messages[-1]["content"] for messages in asked], texts, self.wanted)
        self.curve.append({"interactions": interactions, **read})

    def on_step_end(self, args, state, control, **_) -> None:
        """Read where a point is reached."""
        if state.global_step * BATCH in self.points:
            self.read(state.global_step * BATCH)


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
    **config,
) -> OnlineTrainer:
    """Return the online job's trainer on the tiny world, with the settings of the study unless told otherwise."""
    tokenizer, model = load_model(str(MODEL_DIR))
    looking_back = Teacher(teacher, model)
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
        args=OnlineConfig(**{**arguments, **config}),
        train_dataset=Dataset.from_list([{"prompt": message_of(row.prompt)} for row in rows]),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TeacherKeeper(trainer, looking_back))
    return trainer


def train(teacher: str, seed: int, style: str = "no_emojis", related: bool = True, points=POINTS, answers=512) -> list:
    """Return the curve of one run: an oracle reading at the start and at each point."""
    wanted = oracle.wants_of(style)
    user = OracleUser(wanted, seed) if related else UnrelatedUser(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(folder, teacher, seed, max(points) // BATCH, user)
        probe = Probe(trainer, wanted, points, answers)
        trainer.add_callback(probe)
        probe.read(0)
        trainer.train()
    return probe.curve


def main() -> None:
    """Run the study and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", default=["live", "frozen"])
    parser.add_argument("--styles", nargs="+", default=["no_emojis"])
    parser.add_argument("--users", nargs="+", choices=["persona", "unrelated"], default=["persona", "unrelated"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=512)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    runs = []
    for teacher in arguments.teachers:
        for style in arguments.styles:
            for user in arguments.users:
                for seed in range(arguments.seeds):
                    started = time.monotonic()
                    curve = train(teacher, seed, style, user == "persona", answers=arguments.answers)
                    runs.append({"teacher": teacher, "style": style, "user": user, "seed": seed, "curve": curve})
                    print(f"{teacher:7} {style} {user:9} seed {seed}  {time.monotonic() - started:.0f} s", flush=True)
                    for point in curve:
                        axes = "  ".join(f"{axis} {share:.2f}" for axis, share in point["axes"].items())
                        print(
                            f"  {point['interactions']:>5}  adherence {point['adherence']:.3f}  "
                            f"validity {point['validity']:.3f}  facts {point['faithfulness']:.3f}  {axes}  "
                            f"words {point['mean_length']:.1f}",
                            flush=True,
                        )
                    if arguments.out:
                        arguments.out.write_text(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
