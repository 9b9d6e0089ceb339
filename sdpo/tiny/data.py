"""The tiny world's prompts and logs: training posts, held-out validation posts, and logged conversations."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.text.records import Interaction, Prompt, interaction_lines, prompt_lines
from sdpo.tiny import oracle
from sdpo.tiny.language import sample_post, sample_style, write_answer
from sdpo.tiny.users import OracleUser, UnrelatedUser

# The end of each prompt that the preparation of the TL;DR data writes.
SUFFIX = "\nTL;DR:\n"


def posts(count: int, seed: int, held: bool, name: str) -> list[Prompt]:
    """Return `count` different posts as prompts with ids `name`-0, `name`-1, …; the same for the same seed.

    `held` draws from the held-out part of the language.
    """
    rng = Random(seed)
    texts: dict[str, None] = {}  # a set that keeps the order
    while len(texts) < count:
        texts.setdefault(sample_post(rng, held).text)
    return [Prompt(f"{name}-{number}", text + SUFFIX) for number, text in enumerate(texts)]


def write_prompts(folder: Path, training: int = 2048, validation: int = 512) -> None:
    """Write train.jsonl and validation.jsonl into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed, held in (("train", training, 1, False), ("validation", validation, 2, True)):
        (folder / f"{name}.jsonl").write_text("".join(prompt_lines(posts(count, seed, held, name))), "utf-8")


# Users whose wishes are compatible: together they ask for one style. Most want all of it, some a part.
LOG_STYLES = ("concise_professional_beginner", "concise_professional_expert") * 2 + ("short", "formal")


def logged(
    count: int, seed: int, held: bool = False, styles: Sequence[str] = LOG_STYLES, unrelated: bool = False
) -> list[Interaction]:
    """Return `count` conversations of users with these styles and a model that answers in a random style.

    Each has a post, an answer and the follow-up of an oracle user, or with `unrelated` one about something else.
    """
    rng, interactions = Random(seed), []
    for number in range(count):
        post = sample_post(rng, held)
        answer = write_answer(rng, post, sample_style(rng))
        wanted = oracle.wants_of(rng.choice(styles))
        user = UnrelatedUser() if unrelated else OracleUser(wanted)
        user.rng = rng
        prompt = [{"role": "system", "content": SUMMARY_SYSTEM}, {"role": "user", "content": post.text}]
        reply = user.react([post.text], [answer])[0].text
        interactions.append(Interaction(f"logged-{number}", f"logged-{number}", 1, "tiny", None, prompt, answer, reply))
    return interactions


def write_interactions(folder: Path, training: int = 1024, validation: int = 512) -> None:
    """Write interactions.jsonl and interactions_validation.jsonl into the folder."""
    for name, count, seed, held in (
        ("interactions", training, 3, False),
        ("interactions_validation", validation, 4, True),
    ):
        (folder / f"{name}.jsonl").write_text("".join(interaction_lines(logged(count, seed, held))), "utf-8")
