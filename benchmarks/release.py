"""How often the release verdict is right: checkpoints of the tiny world that were harmed on purpose, and healthy ones.

    python -m benchmarks.release [--each 10] [--prompts 96] [--kinds perturbed,shortened]

A healthy checkpoint was trained on its own answers that fit the style. A harmed one is that, and then

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
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from jobs import eval_tldr
from sdpo.method.scoring import score
from sdpo.models.generate import generate
from sdpo.models.pretrained import load_tokenizer
from sdpo.runtime.launch import main as run_job
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.prompts import PERSONAS, SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR, WORLD_DIR
from sdpo.tiny.world import TinyOracle

STYLE, TOKENS = "no_emojis", 40
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


class Harm:
    """Makes checkpoints of the tiny model, healthy and harmed ones."""

    def __init__(self, rows: int = 192) -> None:
        self.tokenizer = load_tokenizer(str(MODEL_DIR), "MODEL")
        self.start = AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()
        oracle = TinyOracle(STYLE)
        lines = (WORLD_DIR / "data" / "train.jsonl").read_text("utf-8").splitlines()[:rows]
        texts = [json.loads(line)["prompt"].removesuffix(SUFFIX) for line in lines]
        system = {"role": "system", "content": SUMMARY_SYSTEM}
        prompts = [encode_prompt(self.tokenizer, [system, {"role": "user", "content": text}]) for text in texts]
        answers = generate(self.start, self.tokenizer, prompts, TOKENS, batch_size=64, temperature=1.0, seed=3)
        self.in_style: list[Row] = [
            (prompt, encode_answer(self.tokenizer, text, finished))
            for prompt, (text, finished) in zip(prompts, answers, strict=True)
            if finished and oracle.fits(text)
        ]

    def make(self, kind: str, seed: int) -> Any:
        """Return a model of this kind; each seed gives another one."""
        if kind == "unchanged":
            return copy.deepcopy(self.start)
        random = Random(seed)
        model = self._trained(copy.deepcopy(self.start), self.in_style, steps=24, rate=3e-4, random=random)
        return model if kind == "healthy" else getattr(self, f"_{kind}")(model, random)

    def _overtrained(self, model: Any, random: Random) -> Any:
        return self._trained(model, self._same_answers(random), steps=60, rate=1e-3, random=random)

    def _same_answers(self, random: Random) -> list[Row]:
        few = [answer for _, answer in random.sample(self.in_style, 4)]
        return [(prompt, random.choice(few)) for prompt, _ in self.in_style]

    def _noise(self, model: Any, random: Random) -> Any:
        rows = [(prompt, random.sample(answer, len(answer))) for prompt, answer in self.in_style]
        return self._trained(model, rows, steps=24, rate=3e-4, random=random)

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
        return self._trained(model, rows, steps=24, rate=3e-4, random=random)

    def _trained(self, model: Any, rows: Sequence[Row], steps: int, rate: float, random: Random) -> Any:
        """Train all weights on the answers, 16 at a time, and return the model."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        model.train()
        for _ in range(steps):
            batch = random.sample(rows, min(16, len(rows)))
            scores = score(model, [prompt for prompt, _ in batch], [answer for _, answer in batch], len(batch))
            loss = -scores.logps_BT.sum() / scores.mask_BT.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()


def make_run(folder: Path, kind: str, each: int, make: Callable[[str, int], Any]) -> Path:
    """Create the run directory of a kind with this many checkpoints, and return it."""
    folder.mkdir(parents=True)
    files = {f"{split}_jsonl": str(WORLD_DIR / "data" / f"{name}.jsonl") for split, name in DATA.items()}
    settings = {"model": str(MODEL_DIR), "style": STYLE, "max_prompt_tokens": 256, **files}
    shared = {"system_prompt": SUMMARY_SYSTEM, "prompt_suffix": SUFFIX, "persona": PERSONAS[STYLE]}
    run = RunDirectory(folder)
    settings |= {"max_completion_tokens": TOKENS, "style_file": None}
    run.write_json("run.json", {"job": "train-online-tldr", "settings": settings, **shared})
    for step in range(1, each + 1):
        shutil.copytree(MODEL_DIR, folder / f"checkpoint-{step}")
        make(kind, step).save_pretrained(folder / f"checkpoint-{step}")
        run.mark_complete(step)
    return folder


DATA = {"train": "train", "val": "validation"}


def releases(run: Path, prompts: int) -> list[dict]:
    """Evaluate the checkpoints of a run by the oracle, and return the releases of its release.json."""
    flags = ["--tiny", "--run-dir", str(run), "--ckpts", "all", "--judge-model", "oracle", "--eval-n", str(prompts)]
    code = run_job(eval_tldr.JOB, [*flags, "--eval-batch-size", "64"])
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
    chosen = parser.parse_args()
    harm = Harm()
    for kind in chosen.kinds.split(","):
        started = time.time()
        with tempfile.TemporaryDirectory() as folder:
            each = 1 if kind == "unchanged" else chosen.each
            found = releases(make_run(Path(folder) / kind, kind, each, harm.make), chosen.prompts)
        right = sum(is_right(kind, release) for release in found)
        print(f"{kind}: {right} of {len(found)} right, {time.time() - started:.0f} s", flush=True)
        for release in found:
            figures = {
                rule["name"]: round(rule["figure"], 3) for rule in release["rules"] if rule["figure"] is not None
            }
            print(f"  {release['checkpoint']}: {release['verdict']} {sorted(failed(release))} {figures}", flush=True)


if __name__ == "__main__":
    main()
