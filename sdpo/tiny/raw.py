"""Raw rows of the tiny world in the format of each source, so that every preparation job runs without the hub.

`python -m sdpo.tiny.raw` writes them again. They have the irregularities of the real data: duplicate posts, empty and
overlong texts, two consecutive messages of one role, other languages, an edited message.
"""

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

from sdpo.tiny import WORLD_DIR
from sdpo.tiny.language import (
    AXES,
    sample_post,
    sample_style,
    write_answer,
    write_request,
    write_thanks,
    write_unrelated,
)

_TIME = 1_700_000_000  # Unix time of the first conversation, in seconds


def write_raw(folder: Path = WORLD_DIR / "data") -> None:
    """Write the raw rows of every source into a subfolder each."""
    for name, split, rows in (
        ("tldr", "train", tldr_rows(Random(1), 160, held=False)),
        # The last rows are in train too, as in the real data.
        ("tldr", "validation", tldr_rows(Random(2), 40, held=True) + tldr_rows(Random(1), 8, held=False)),
        ("wildchat", "train", wildchat_rows(Random(5), 240)),
    ):
        _write_parquet(folder / name / f"{split}-00000-of-00001.parquet", rows)
    for split, rows in (("train", helpsteer_rows(Random(3), 120)), ("validation", helpsteer_rows(Random(4), 30))):
        path = folder / "helpsteer" / f"{split}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    _write_json(folder / "wildfeedback" / "train.json", wildfeedback_rows(Random(6), 60))
    rng = Random(7)
    _write_json(folder / "logs" / "conversations.json", [chatgpt_conversation(rng, number) for number in range(20)])


def tldr_rows(rng: Random, count: int, held: bool) -> list[dict]:
    """Return comparisons of two summaries. Each post occurs twice, sometimes the second time in capitals."""
    rows = []
    for number in range(count // 2):
        post = sample_post(rng, held).text
        for text in (post, post.upper() if number % 3 == 0 else post):
            empty, long = number % 20 == 7, number % 20 == 13
            rows.append(
                {
                    "info": {
                        "id": f"t3_{number:05d}", "post": None if empty else text * 12 if long else text,
                        "title": "my pet", "subreddit": "relationships", "site": None, "article": None,
                    },
                    "summaries": [
                        {"text": " " + write_answer(rng, sample_post(rng, held), sample_style(rng)), "policy": policy,
                         "note": None} for policy in ("ref", "sup2")
                    ],
                    "choice": rng.randrange(2), "worker": "worker", "batch": "batch-1",
                    "split": "valid1" if held else "train", "extra": {"confidence": None},
                }
            )  # fmt: skip
    return rows


def helpsteer_rows(rng: Random, count: int) -> list[dict]:
    """Return requests with two rated answers each; some requests have several turns."""
    rows = []
    for number in range(count // 2):
        post = sample_post(rng)
        prompt = f"Sum this up for me: {post.text}"
        if number % 10 == 3:
            prompt += "\n<extra_id_1>Assistant\nOf course.\n<extra_id_1>User\nShorter."
        for _ in range(2):
            scores = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
            rows.append(
                {"prompt": prompt, "response": write_answer(rng, post, sample_style(rng))}
                | {name: rng.randrange(5) for name in scores}
            )
    return rows


def wildfeedback_rows(rng: Random, count: int) -> list[dict]:
    """Return conversations as lists of messages with `from` and `value`."""
    names = {"user": "human", "assistant": "gpt"}
    return [
        {"conversations": [{"from": names[role], "value": text} for role, text in _talk(rng, 2 + number % 3)]}
        for number in range(count)
    ]


def wildchat_rows(rng: Random, count: int) -> list[dict]:
    """Return conversations with all columns of the source."""
    from datetime import UTC, datetime

    rows = []
    for number in range(count):
        language = "Spanish" if number % 4 == 1 else "English"
        talk = _talk(rng, 1 + number % 4)
        if number % 12 == 6:
            talk.insert(1, ("user", "It is about a pet."))
        toxic, redacted = number % 30 == 9, number % 30 == 19
        flags = {"language": language, "redacted": redacted, "toxic": toxic}
        rows.append(
            {
                "conversation_id": f"tiny{number:04d}", "model": "gpt-3.5-turbo",
                "timestamp": datetime.fromtimestamp(_TIME + 60 * number, UTC),
                "conversation": [{"content": text, "role": role, **flags} for role, text in talk],
                "turn": sum(role == "assistant" for role, _ in talk), "language": language,
                "openai_moderation": [{"categories": {"hate": False}, "flagged": toxic} for _ in talk],
                "detoxify_moderation": [{"toxicity": 0.5 if toxic else 0.01} for _ in talk],
                "toxic": toxic, "redacted": redacted,
            }
        )  # fmt: skip
    return rows


def chatgpt_conversation(rng: Random, number: int) -> dict:
    """Return a conversation in the format of a ChatGPT export; in every third the first message was edited."""
    mapping: dict[str, Any] = {"root": {"id": "root", "message": None, "parent": None, "children": []}}
    parent, talk = "root", _talk(rng, 2 + number % 2)
    edited = [("user", "Sum up something about a pet")] if number % 3 == 0 else []
    for index, (role, text) in enumerate([*edited, *talk]):
        name = f"node-{index}"
        mapping[name] = {
            "id": name, "parent": parent, "children": [],
            "message": {
                "id": name, "author": {"role": role, "name": None, "metadata": {}}, "recipient": "all",
                "create_time": _TIME + 3600.0 * number + index, "status": "finished_successfully",
                "content": {"content_type": "text", "parts": [text]}, "metadata": {},
            },
        }  # fmt: skip
        mapping[parent]["children"].append(name)
        parent = parent if index < len(edited) else name
    title, when = f"pet {number}", _TIME + 3600.0 * number
    return {
        "title": title, "create_time": when, "update_time": when, "mapping": mapping, "current_node": parent,
        "conversation_id": f"export-{number}", "default_model_slug": "gpt-4o",
    }  # fmt: skip


def _talk(rng: Random, turns: int) -> list[tuple[str, str]]:
    """Return a conversation about one post as (role, text) messages. Half of them end with the user."""
    post, style = sample_post(rng), sample_style(rng)
    messages = [("user", f"Sum this up for me: {post.text}")]
    for turn in range(turns):
        messages.append(("assistant", write_answer(rng, post, style)))
        if turn == turns - 1 and rng.random() < 0.5:
            break
        chance = rng.random()
        if chance < 0.6:
            axis = rng.randrange(len(AXES))
            style = style._replace(**{AXES[axis]: not style[axis]})
            messages.append(("user", write_request(rng, {AXES[axis]: style[axis]})))
        else:
            messages.append(("user", write_thanks(rng) if chance < 0.8 else write_unrelated(rng)))
    return messages


def _write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="zstd")


def _write_json(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    write_raw()
