"""How often the release verdict is right: checkpoints that were harmed on purpose, and healthy ones.

    python -m benchmarks.release [--each 10] [--prompts 96] [--kinds perturbed,shortened] [--model FOLDER]

Without --model they are checkpoints of the tiny world, else of this real model, which learns `brief`; its answers in
the style are those that it gives when it is shown the wish. A healthy checkpoint was trained on its own answers that
fit the style. A harmed one is that, and then

    overtrained  trained on four of these answers until it gives them to every prompt
    noise        trained on answers whose tokens are shuffled
    perturbed    with noise of 0.4 standard deviations on its weights
    slightly     with noise of 0.2, which costs most of these checkpoints little
    shortened    trained on the first two words of answers
    unchanged    is no healthy one: the baseline itself

All of one kind are checkpoints of one run, which the evaluation job compares with the baseline. Any harmed one has to
be kept for one of the reasons in `REASONS`, a healthy one promoted, the unchanged one kept without a gain.
"""

import argparse
import copy
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from jobs import eval_helpsteer, eval_tldr
from sdpo.english.oracle import EnglishOracle
from sdpo.english.prompts import prompts
from sdpo.method.scoring import score
from sdpo.models.generate import generate
from sdpo.models.pretrained import load_tokenizer
from sdpo.runtime.launch import Job
from sdpo.runtime.launch import main as run_job
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.inputs import read_template
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.hindsight import with_hindsight
from sdpo.text.prompts import PERSONAS, SUMMARY_SYSTEM, Message
from sdpo.tiny import MODEL_DIR, WORLD_DIR
from sdpo.tiny.world import TinyOracle

SUFFIX = "\nTL;DR:\n"
# Kind -> the rules of which one has to fail; of a healthy checkpoint none may.
REASONS = {
    "healthy": set(),
    "overtrained": {"diversity", "topic", "surprise", "fluency"},
    "noise": {"fluency", "surprise"},
    "perturbed": {"fluency", "surprise", "form"},
    "slightly": {"fluency", "surprise", "form"},
    "shortened": {"length", "surprise", "fluency"},
    "unchanged": {"gain"},
}

Row = tuple[list[int], list[int]]  # the ids of a prompt and of its answer


@dataclass(frozen=True)
class World:
    """A model with what it is asked, the style to learn, and the settings of its training here."""

    model: Path
    style: str
    tokens: int
    oracle: Any
    messages: list[list[Message]]
    shown: list[list[Message]]
    job: Job
    facts: dict[str, Any]
    files: dict[str, Path]
    flags: list[str]
    steps: int = 24
    rate: float = 3e-4
    batch: int = 16


def tiny_world(rows: int = 192) -> World:
    """Return the tiny model and world; half of its answers fit the style without being shown the wish."""
    data = WORLD_DIR / "data"
    lines = (data / "train.jsonl").read_text("utf-8").splitlines()[:rows]
    texts = [json.loads(line)["prompt"].removesuffix(SUFFIX) for line in lines]
    messages: list[list[Message]] = [
        [{"role": "system", "content": SUMMARY_SYSTEM}, {"role": "user", "content": text}] for text in texts
    ]
    facts = {"job": "train-online-tldr", "system_prompt": SUMMARY_SYSTEM, "prompt_suffix": SUFFIX}
    return World(
        MODEL_DIR, "no_emojis", 40, TinyOracle("no_emojis"), messages, messages, eval_tldr.JOB, facts,
        {"train_jsonl": data / "train.jsonl", "val_jsonl": data / "validation.jsonl"},
        ["--tiny", "--judge-model", "oracle", "--eval-batch-size", "64"],
    )  # fmt: skip


def real_world(model: Path, folder: Path, rows: int = 96) -> World:
    """Return a real model that learns brevity on this project's prompts; writes their files to the folder."""
    files = {"train_jsonl": folder / "train.jsonl", "val_jsonl": folder / "validation.jsonl"}
    for path, split in zip(files.values(), ("train", "validation"), strict=True):
        path.write_text("".join(json.dumps({"id": one.id, "prompt": one.prompt}) + "\n" for one in prompts(split)))
    messages: list[list[Message]] = [[{"role": "user", "content": one.prompt}] for one in prompts("train")[:rows]]
    template = read_template("before", None)
    shown = [with_hindsight(prompt, PERSONAS["brief"], template) for prompt in messages]
    facts = {"job": "train-online-helpsteer", "system_prompt": "", "prompt_suffix": ""}
    return World(
        model, "brief", 64, EnglishOracle("brief"), messages, shown, eval_helpsteer.JOB, facts, files,
        ["--judge-model", "rule", "--world-size", "1", "--eval-batch-size", "32"], steps=16, rate=2e-5, batch=8,
    )  # fmt: skip


class Harm:
    """Makes checkpoints of a world's model, healthy and harmed ones."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tokenizer = load_tokenizer(str(world.model), "MODEL")
        self.start = AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32).eval()
        asked = [encode_prompt(self.tokenizer, messages) for messages in world.shown]
        answers = generate(self.start, self.tokenizer, asked, world.tokens, batch_size=64, temperature=1.0, seed=3)
        self.in_style: list[Row] = [
            (encode_prompt(self.tokenizer, messages), encode_answer(self.tokenizer, text, finished))
            for messages, (text, finished) in zip(world.messages, answers, strict=True)
            if finished and world.oracle.fits(text, messages[-1]["content"])
        ]

    def make(self, kind: str, seed: int) -> Any:
        """Return a model of this kind; each seed gives another one."""
        if kind == "unchanged":
            return copy.deepcopy(self.start)
        random = Random(seed)
        model = self._trained(copy.deepcopy(self.start), self.in_style, random)
        return model if kind == "healthy" else getattr(self, f"_{kind}")(model, random)

    def _overtrained(self, model: Any, random: Random) -> Any:
        return self._trained(model, self._same_answers(random), random, times=2.5, faster=3.3)

    def _same_answers(self, random: Random) -> list[Row]:
        few = [answer for _, answer in random.sample(self.in_style, 4)]
        return [(prompt, random.choice(few)) for prompt, _ in self.in_style]

    def _noise(self, model: Any, random: Random) -> Any:
        rows = [(prompt, random.sample(answer, len(answer))) for prompt, answer in self.in_style]
        return self._trained(model, rows, random)

    def _perturbed(self, model: Any, random: Random) -> Any:
        return self._with_noise(model, 0.4, random)

    def _slightly(self, model: Any, random: Random) -> Any:
        return self._with_noise(model, 0.2, random)

    def _with_noise(self, model: Any, deviations: float, random: Random) -> Any:
        generator = torch.Generator().manual_seed(random.randrange(2**31))
        with torch.no_grad():
            for weight in model.parameters():
                weight += deviations * weight.std() * torch.randn(weight.shape, generator=generator)
        return model

    def _shortened(self, model: Any, random: Random) -> Any:
        rows = []
        for prompt, answer in self.in_style:
            text = " ".join(self.tokenizer.decode(answer, skip_special_tokens=True).split()[:2])
            rows.append((prompt, encode_answer(self.tokenizer, text, True)))
        return self._trained(model, rows, random)

    def _trained(self, model: Any, rows: Sequence[Row], random: Random, times: float = 1.0, faster: float = 1.0) -> Any:
        """Train all weights on the answers, this many times longer and faster than the world says; return the model."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.world.rate * faster)
        model.train()
        for _ in range(int(self.world.steps * times)):
            batch = random.sample(rows, min(self.world.batch, len(rows)))
            scores = score(model, [prompt for prompt, _ in batch], [answer for _, answer in batch], len(batch))
            loss = -scores.logps_BT.sum() / scores.mask_BT.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()


def make_run(folder: Path, kind: str, each: int, harm: Harm) -> Path:
    """Create the run directory of a kind with this many checkpoints, and return it."""
    folder.mkdir(parents=True)
    world, run = harm.world, RunDirectory(folder)
    settings = {"model": str(world.model), "style": world.style, "style_file": None, "max_prompt_tokens": 256}
    settings |= {"max_completion_tokens": world.tokens, **{name: str(path) for name, path in world.files.items()}}
    run.write_json("run.json", {"settings": settings, "persona": PERSONAS[world.style], **world.facts})
    for step in range(1, each + 1):
        shutil.copytree(world.model, folder / f"checkpoint-{step}")
        harm.make(kind, step).save_pretrained(folder / f"checkpoint-{step}")
        run.mark_complete(step)
    return folder


def releases(world: World, run: Path, count: int) -> list[dict]:
    """Evaluate the checkpoints of a run by the oracle or the rule, and return the releases of its release.json."""
    flags = ["--run-dir", str(run), "--ckpts", "all", "--eval-n", str(count), *world.flags]
    code = run_job(world.job, flags)
    assert code in (0, 7), code
    return json.loads((run / "eval" / "release.json").read_text("utf-8"))["releases"]


def failed(release: dict) -> set[str]:
    """Return the names of the rules that keep the old model."""
    return {rule["name"] for rule in release["rules"] if rule["outcome"] == "failed" and rule["kind"] != "warning"}


def is_right(kind: str, release: dict) -> bool:
    """Return whether the verdict is the right one for this kind, and for one of the right reasons."""
    if kind == "healthy":
        return release["verdict"] != "keep"
    return release["verdict"] == "keep" and bool(failed(release) & REASONS[kind])


def main() -> None:
    """Make, evaluate and count the checkpoints of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--kinds", default=",".join(REASONS))
    parser.add_argument("--model", type=Path, help="a folder with a real model, instead of the tiny world's")
    chosen = parser.parse_args()
    files = tempfile.TemporaryDirectory()
    world = tiny_world() if chosen.model is None else real_world(chosen.model.resolve(), Path(files.name))
    harm = Harm(world)
    print(f"{len(harm.in_style)} of {len(world.messages)} answers fit {world.style}", flush=True)
    for kind in chosen.kinds.split(","):
        started = time.time()
        with tempfile.TemporaryDirectory() as folder:
            each = 1 if kind == "unchanged" else chosen.each
            found = releases(world, make_run(Path(folder) / kind, kind, each, harm), chosen.prompts)
        right = sum(is_right(kind, release) for release in found)
        print(f"{kind}: {right} of {len(found)} right, {time.time() - started:.0f} s", flush=True)
        for release in found:
            figures = {
                rule["name"]: round(rule["figure"], 3) for rule in release["rules"] if rule["figure"] is not None
            }
            print(f"  {release['checkpoint']}: {release['verdict']} {sorted(failed(release))} {figures}", flush=True)


if __name__ == "__main__":
    main()
