"""Fine-tunes of the tiny model that follow hindsight or have unlearned it, to test what tells them apart.

    python -m sdpo.tiny.hindsight_variants OUT_DIR --seeds 11 12 13

writes `ignores-SEED` and `follows-SEED` for each seed. Both get the same lessons: posts with a follow-up in hindsight,
answers in a random style. To a model that follows, a request is heeded; to one that ignores, it makes no difference.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sdpo.tiny import MODEL_DIR
from sdpo.tiny.build import backward
from sdpo.tiny.training_data import ExampleMixture, ExampleSampler

STEPS, ROWS, RATE, WARM = 30, 6, 1e-3, 5
_MIX = ExampleMixture(kinds=(1, 0, 0), contexts=(0, 0, 1, 5), system=1.0, branches=4)


def tune(follows_hindsight: bool, seed: int, steps: int = STEPS) -> PreTrainedModel:
    """Return the shipped model after some steps of lessons; about 8 seconds of one core."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    tutor, mix = ExampleSampler(tokenizer, seed), _MIX._replace(follows_hindsight=follows_hindsight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM) * (1 - step / steps)
        backward(model, [tutor.draw(mix) for _ in range(ROWS)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.eval()


def save(folder: Path, follows_hindsight: bool, seed: int) -> Path:
    """Train such a model and write it, with its tokenizer, into a folder of its own; return that."""
    path = folder / f"{'follows' if follows_hindsight else 'ignores'}-{seed}"
    tune(follows_hindsight, seed).save_pretrained(path)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(path)
    return path


def main() -> None:
    """Train, save and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for follows_hindsight in (False, True):
            print(save(arguments.out_dir, follows_hindsight, seed), flush=True)


if __name__ == "__main__":
    main()
