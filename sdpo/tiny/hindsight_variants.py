"""Fine-tuned variants of the tiny model that follow hindsight or ignore it, to test whether the audit detects which.

    python -m sdpo.tiny.hindsight_variants OUT_DIR --seeds 11 12 13

writes `ignores-SEED` and `follows-SEED` for each seed. Both are trained on posts with a follow-up in hindsight and
answers in a random style. For `follows` the answers meet the follow-up's request; for `ignores` they are independent
of it.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from sdpo.tiny import MODEL_DIR
from sdpo.tiny.build import backward
from sdpo.tiny.training_data import ExampleMixture, ExampleSampler

STEPS, ROWS, RATE, WARM = 30, 6, 1e-3, 5
_MIX = ExampleMixture(kinds=(1, 0, 0), contexts=(0, 0, 1, 5), system=1.0, branches=4)


def tune(follows_hindsight: bool, seed: int, steps: int = STEPS) -> Qwen3ForCausalLM:
    """Return the shipped model fine-tuned for some steps; this takes about 8 seconds on one core."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = Qwen3ForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    sampler, mix = ExampleSampler(tokenizer, seed), _MIX._replace(follows_hindsight=follows_hindsight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM) * (1 - step / steps)
        backward(model, [sampler.draw(mix) for _ in range(ROWS)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


def save(folder: Path, follows_hindsight: bool, seed: int) -> Path:
    """Fine-tune a model, write it and its tokenizer into a new folder in `folder`, and return that folder."""
    path = folder / f"{'follows' if follows_hindsight else 'ignores'}-{seed}"
    tune(follows_hindsight, seed).save_pretrained(path)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(path)
    return path


def main() -> None:
    """Fine-tune the models, save them and print their folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for follows_hindsight in (False, True):
            print(save(arguments.out_dir, follows_hindsight, seed), flush=True)


if __name__ == "__main__":
    main()
