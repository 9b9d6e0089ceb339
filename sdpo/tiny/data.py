"""The tiny world's prompts: training posts, and validation posts from the part that no model is trained on."""

from pathlib import Path
from random import Random

from sdpo.records import Prompt, prompt_lines
from sdpo.tiny.language import sample_post

# As the preparation of the TL;DR data leaves its prompts.
SUFFIX = "\nTL;DR:\n"


def posts(count: int, seed: int, held: bool, name: str) -> list[Prompt]:
    """Return `count` different posts as prompts; the same for the same seed."""
    rng, texts = Random(seed), {}
    while len(texts) < count:
        texts.setdefault(sample_post(rng, held).text)
    return [Prompt(f"{name}-{number}", text + SUFFIX) for number, text in enumerate(texts)]


def write_prompts(folder: Path, training: int = 2048, validation: int = 512) -> None:
    """Write train.jsonl and validation.jsonl into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed, held in (("train", training, 1, False), ("validation", validation, 2, True)):
        (folder / f"{name}.jsonl").write_text("".join(prompt_lines(posts(count, seed, held, name))), "utf-8")
