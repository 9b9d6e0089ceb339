"""Logged interactions and signal cases of the tiny world, on held-out posts and wordings.

`python -m sdpo.tiny.logged` writes the files that the signal analysis and the audit read with TINY=1.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from sdpo.text.prompts import SUMMARY_SYSTEM, Message
from sdpo.text.records import Interaction, interaction_lines
from sdpo.tiny import WORLD_DIR, language

# How many of a hundred logged users complain, say thanks or change the topic.
MIX = {"complaint": 55, "thanks": 20, "new topic": 25}


def interactions(count: int, seed: int, mix: dict[str, int] = MIX) -> list[Interaction]:
    """Return `count` interactions, one per conversation. A complaint is about an actual property of the answer."""
    rng = Random(seed)
    kinds = rng.choices(list(mix), list(mix.values()), k=count)
    return [_interaction(rng, number, kind) for number, kind in enumerate(kinds)]


def _interaction(rng: Random, number: int, kind: str) -> Interaction:
    post, style = language.sample_post(rng, held=True), language.sample_style(rng)
    if kind == "complaint":
        axis = rng.choice(language.AXES)
        follow_up = language.write_request(rng, {axis: not getattr(style, axis)}, held=True)
    elif kind == "thanks":
        follow_up = language.write_thanks(rng, held=True)
    else:
        follow_up = language.write_unrelated(rng, held=True)
    name = f"audit-{number}"
    answer = language.write_answer(rng, post, style)
    return Interaction(name, name, 1, None, None, messages_of(post), answer, follow_up)


def messages_of(post: language.Post) -> list[Message]:
    """Return the messages that ask for a summary of the post."""
    return [{"role": "system", "content": SUMMARY_SYSTEM}, {"role": "user", "content": post.text}]


def cases(count: int, seed: int) -> list[dict[str, str]]:
    """Return signal cases in pairs: the same post, with a follow-up for and a follow-up against one property.

    They have no answer: it is sampled by the model under analysis.
    """
    rng, rows = Random(seed), []
    for number in range(count // 2):
        axis, post = language.AXES[number % len(language.AXES)], language.sample_post(rng, held=True)
        for tag, value in (("reinforce", True), ("constrain", False)):
            rows.append(
                {
                    "id": f"{axis}-{number // len(language.AXES) + 1}-{tag}",
                    "tag": tag,
                    "system": SUMMARY_SYSTEM,
                    "raw_prompt": post.text,
                    "unrelated_followup": language.write_unrelated(rng, held=True),
                    "feedback_followup": language.write_request(rng, {axis: value}, held=True),
                }
            )
    return rows


def write_files(folder: Path) -> Sequence[Path]:
    """Write audit.jsonl and cases.json into the folder and return their paths."""
    audit, drawn = folder / "audit.jsonl", folder / "cases.json"
    audit.write_text("".join(interaction_lines(interactions(256, seed=11))), "utf-8")
    drawn.write_text(json.dumps(cases(24, seed=12), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return audit, drawn


if __name__ == "__main__":
    print(*write_files(WORLD_DIR / "data"), sep="\n")
