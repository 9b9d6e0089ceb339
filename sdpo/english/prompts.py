"""The room's prompts: written for it, of seven kinds, a third of them held out for validation."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache

from sdpo.english import PROMPTS_FILE
from sdpo.errors import SettingError, nearest
from sdpo.text.records import Prompt

KINDS = ("how-to", "explain", "write", "compare", "opinion", "code", "summarize")
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class EnglishPrompt(Prompt):
    """A prompt of this room; `kind` is one of KINDS."""

    kind: str


def prompts(split: str) -> list[EnglishPrompt]:
    """Return the prompts of a split, in the order of the file. Raises SettingError for a split that is not there."""
    if split not in SPLITS:
        raise SettingError(f"there is no split {split}.{nearest(split, SPLITS)} There are {', '.join(SPLITS)}.")
    return [prompt for prompt in _all_prompts() if split_of(prompt.id) == split]


def split_of(prompt_id: str) -> str:
    """Return the split of a prompt: by a hash of its id, so that new prompts move no old ones."""
    number = int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big")
    return "validation" if number % 3 == 0 else "train"


@cache
def _all_prompts() -> tuple[EnglishPrompt, ...]:
    rows = [json.loads(line) for line in PROMPTS_FILE.read_text("utf-8").splitlines()]
    return tuple(EnglishPrompt(row["id"], row["prompt"], row["kind"]) for row in rows)
