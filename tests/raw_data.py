"""Raw rows in the layout of each source, with the irregularities of real data, and a slow reference reader for them.

The reference shares no code with the project: it implements the same rules again, in the simplest way.
"""

from datetime import UTC, datetime
from itertools import groupby
from random import Random

TEXTS = [
    "plain words", "Two\nlines", "  spaces around  ", "", "   ", "😀👍🏽", "שלום עולם", "مرحبا",
    "<|im_end|>\n<|im_start|>system",
    "tab\tand\u2028separator", "quote \" and \\ backslash", "x" * 4096, "x" * 4097, "é" * 30,
]  # fmt: skip


def text(rng, role="user"):
    if rng.random() < 0.25:
        return rng.choice(TEXTS)
    return f"{role} says {rng.randrange(10**6)}"


def talk(rng):
    """Return roles and texts: mostly alternating, sometimes one role twice, the assistant first, or no messages."""
    messages = []
    role = "assistant" if rng.random() < 0.1 else "user"
    for _ in range(rng.randrange(9)):
        messages.append((role, text(rng, role)))
        if rng.random() < 0.85:
            role = "assistant" if role == "user" else "user"
    if rng.random() < 0.04:
        over = rng.choice([0, 1])
        pieces = [4000] * 24 + [4000 + over]
        messages = [(("user", "assistant")[index % 2], "y" * length) for index, length in enumerate(pieces)]
    return messages


def wildchat(rng, count):
    rows = []
    for number in range(count):
        language = rng.choice(["English", "English", "English", "english", "French", None])
        flags = {"language": language, "redacted": rng.random() < 0.1, "toxic": rng.random() < 0.1}
        messages = talk(rng)
        rows.append(
            {
                "conversation_id": rng.choice([f"id-{number}", f"id-{number}", f"id-{number}", None]),
                "model": rng.choice(["gpt-4", None]),
                "timestamp": datetime.fromtimestamp(1_600_000_000 + number, UTC),
                "conversation": rng.choice([None, [{"content": t, "role": r, **flags} for r, t in messages]])
                if rng.random() < 0.1
                else [{"content": t if t else rng.choice(["", None]), "role": r, **flags} for r, t in messages],
                "turn": len(messages) // 2, "language": language,
                "openai_moderation": [{"categories": {"hate": False}, "flagged": False}],
                "detoxify_moderation": [{"toxicity": 0.1}], "toxic": flags["toxic"], "redacted": flags["redacted"],
            }
        )  # fmt: skip
    return rows


def wildfeedback(rng, count):
    """Return rows whose messages are in either format, even within one conversation."""
    names = {"user": "human", "assistant": "gpt"}
    rows = []
    for _ in range(count):
        messages = [
            {"from": names[r], "value": t} if rng.random() < 0.6 else {"role": r, "content": t} for r, t in talk(rng)
        ]
        rows.append({rng.choice(["conversations", "conversation"]): messages})
    rows += [{"conversations": None}, {}, {"conversations": [{"from": "gpt"}, {"value": "x"}, {"from": "human"}]}]
    return rows


def tldr(rng, count, posts):
    rows = []
    for number in range(count):
        post = rng.choice([*posts, None, "", "  ", "z" * 1015, "z" * 1016])
        if post and rng.random() < 0.3:
            post = post.replace(" ", "  \n").upper()
        rows.append(
            {
                "info": None if rng.random() < 0.02 else {
                    "id": f"t3_{number}", "post": post, "title": "t", "subreddit": "s", "site": None,
                    "article": rng.choice([None, None, f"article {number % 7}"]),
                },
                "summaries": [{"text": "a", "policy": "ref", "note": None}] * 2, "choice": number % 2,
                "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": None},
            }
        )  # fmt: skip
    return rows


def helpsteer(rng, count):
    scores = dict.fromkeys(["helpfulness", "correctness", "coherence", "complexity", "verbosity"], 3)
    prompts = [f"question {number}" for number in range(count // 3)]
    prompts += ["", " ", "p" * 2048, "p" * 2049, "a\n<extra_id_1>Assistant\nb", "Question 1", "😀 שלום"]
    responses = ["answer", "answer", "", "r" * 2048, "r" * 2049]
    return [{"prompt": rng.choice(prompts), "response": rng.choice(responses), **scores} for _ in range(count)]


# The slow reference


def slow_prompts(rows, already=()):
    """Return the prompts to keep, in order; `rows` are candidates as (prompt, usable)."""
    kept, marks = [], set(already)
    for prompt, usable in rows:
        mark = " ".join(prompt.lower().split())
        if usable and mark not in marks:
            kept.append(prompt)
            marks.add(mark)
    return kept, marks


def slow_tldr(rows):
    for row in rows:
        info = row["info"] or {"post": None, "article": None}
        texts = [value.strip() for value in (info["post"], info["article"]) if value is not None and value.strip()]
        prompt = texts[0] + "\nTL;DR:\n" if texts else ""
        yield prompt, bool(texts) and len(prompt) <= 1023


def slow_helpsteer(rows):
    for row in rows:
        prompt, response = row["prompt"].strip(), row["response"].strip()
        fits = 0 < len(prompt) <= 2048 and 0 < len(response) <= 2048
        yield prompt, fits and "<extra_id_" not in prompt


def slow_conversation(name, messages, longest_user=None):
    """Return a conversation's interactions as written, [] if it is left out; messages are (role, text or None)."""
    messages = [(role, (words or "").strip()) for role, words in messages]
    said = [(role, words) for role, words in messages if words]
    if len(said) < 3 or sum(len(words) for _, words in said) > 100_000:
        return []
    for role, words in said:
        if role == "assistant" and len(words) > 4096:
            return []
        if role == "user" and longest_user and len(words) > longest_user:
            return []
    return slow_interactions(name, messages)


def slow_turn(run):
    """Return the text of a run of messages of one role, None if one without text lies between two with text."""
    texts = [words for _, words in run]
    while texts and not texts[0]:
        texts = texts[1:]
    while texts and not texts[-1]:
        texts = texts[:-1]
    return "\n\n".join(texts) if texts and all(texts) else None


def slow_interactions(name, messages):
    merged = [(role, slow_turn(run)) for role, run in groupby(messages, key=lambda m: m[0])]
    interactions = []
    for index in range(1, len(merged) - 1):
        if merged[index][0] != "assistant" or merged[index + 1][0] != "user":
            continue
        start = next(start for start in range(max(0, index - 5), index) if merged[start][0] == "user")
        if any(words is None for _, words in merged[start : index + 2]):
            continue
        prompt = [{"role": role, "content": words} for role, words in merged[start:index]]
        assert len(prompt) <= 5 and prompt[-1]["role"] == "user"
        answer, reply = merged[index][1], merged[index + 1][1]
        interactions.append(
            {
                "id": f"{name}_{index}", "conversation_id": name, "turn_id": index, "prompt": prompt,
                "completion": answer, "user_response": reply,
                "prompt_length": sum(len(message["content"]) for message in prompt),
                "completion_length": len(answer), "user_response_length": len(reply),
            }
        )  # fmt: skip
    return interactions


def random(seed):
    return Random(seed)
