"""The figures of one model with one hindsight template, on sampled interactions."""

import random
import statistics as plain
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdpo.evaluate.statistics import ratio_interval, wilson
from sdpo.signal.annotator import Annotator
from sdpo.signal.measure import LoadedModel, say, signal_of, size_of
from sdpo.signal.verdict import THRESHOLDS
from sdpo.text.prompts import FOLLOW_UP_KINDS
from sdpo.text.records import Interaction
from sdpo.tiny import oracle

FIRST = 2  # tokens that count as an answer's first


@dataclass
class Sample:
    """Interactions to audit with, and what is shown in the place of each follow-up; the same for every template."""

    rows: list[Interaction]
    shuffled: list[str]
    unrelated: list[str]
    left_out: dict[str, int]

    @property
    def follow_ups(self) -> dict[str, list[str]]:
        """What is shown in hindsight, by name; `template` shows nothing, so that the template alone is seen."""
        return {
            "true": [row.user_response for row in self.rows],
            "shuffled": self.shuffled,
            "unrelated": self.unrelated,
            "template": [""] * len(self.rows),
        }

    @property
    def groups(self) -> list[str]:
        """The conversation of each row."""
        return [row.conversation_id for row in self.rows]


def draw(rows: Sequence[Interaction], unrelated: Sequence[str], seed: int, left_out: dict[str, int]) -> Sample:
    """Return the sample with a follow-up of another conversation, and one that is unrelated, for each row."""
    rng = random.Random(seed)
    shuffled = []
    for row in rows:
        others = [
            other.user_response
            for other in rows
            if other.conversation_id != row.conversation_id and other.user_response != row.user_response
        ]
        shuffled.append(rng.choice(others) if others else rng.choice(unrelated))
    return Sample(list(rows), shuffled, [rng.choice(unrelated) for _ in rows], left_out)


@dataclass
class PreparedAudit:
    """What a model's figures need under every template: worked out once."""

    subject: LoadedModel
    sample: Sample
    kinds: list[str]
    completions: list[list[int]]
    bare: list[list[float]]
    informative_rows: list[int]
    plain_answers: list[tuple[str, bool]]


def prepare(
    subject: LoadedModel, sample: Sample, world: Annotator, length: int, temperature: float, seed: int
) -> PreparedAudit:
    """Return the kinds of follow-ups, the bare log-probabilities, and answers without hindsight."""
    completions = [subject.completion(row.completion) for row in sample.rows]
    contexts = [subject.context(row.prompt) for row in sample.rows]
    kinds = world.kinds(sample.rows, subject)
    bare = subject.logps(contexts, completions, say("scored, bare"))
    chosen = informative_rows(kinds)
    answers = subject.answer([contexts[row] for row in chosen], length, temperature, seed, say("answered, bare"))
    return PreparedAudit(subject, sample, kinds, completions, bare, chosen, answers)


def informative_rows(kinds: Sequence[str]) -> list[int]:
    """Return the rows whose follow-up should change the answer: complaints, or with few of them thanks as well."""
    for wanted in (("complaint",), ("complaint", "thanks"), FOLLOW_UP_KINDS):
        rows = [row for row, kind in enumerate(kinds) if kind in wanted]
        if len(rows) >= THRESHOLDS.rows:
            return rows
    return list(range(len(kinds)))


def figures(
    ready: PreparedAudit, template: str, world: Annotator, length: int, temperature: float, seed: int
) -> dict[str, Any]:
    """Return the figures that `verdict.judge` reads; sizes are mean |signal| per token of a row, in nats."""
    subject, sample = ready.subject, ready.sample
    signals: dict[str, list[list[float]]] = {}
    for name, follow_ups in sample.follow_ups.items():
        contexts = [
            subject.context(row.prompt, said, template) for row, said in zip(sample.rows, follow_ups, strict=True)
        ]
        logps = subject.logps(contexts, ready.completions, say(f"scored, {name}"))
        signals[name] = [signal_of(*pair) for pair in zip(logps, ready.bare, strict=True)]
    sizes = {name: [size_of(signal) for signal in rows] for name, rows in signals.items()}
    found = _sizes(ready, sizes, signals)
    found |= _by_kind(ready, sizes)
    found["places"] = _places(ready, signals["true"], range(len(sample.rows)))
    if world.tiny:
        found["peaks"] = _peaks(ready, signals["true"])
    found["preference"] = _preference(ready, template, world, length, temperature, seed)
    return found


def _sizes(
    ready: PreparedAudit, sizes: dict[str, list[float]], signals: dict[str, list[list[float]]]
) -> dict[str, Any]:
    groups, rows = ready.sample.groups, ready.informative_rows

    def of(values: Sequence[float], chosen: Sequence[int]) -> list[float]:
        return [values[row] for row in chosen]

    def ratio(above: Sequence[float], below: Sequence[float], chosen: Sequence[int]) -> dict[str, Any]:
        # A follow-up that changes nothing at all still must not divide by nothing.
        under = [max(value, 1e-9) for value in of(below, chosen)]
        value, interval = ratio_interval(of(above, chosen), under, of(groups, chosen))
        return {"value": value, "interval": interval}

    left = [
        size_of([true - null for true, null in zip(*pair, strict=True)])
        for pair in zip(signals["true"], signals["unrelated"], strict=True)
    ]
    every, ones = range(len(groups)), [1.0] * len(groups)
    kinds = {ready.kinds[row] for row in rows}
    return {
        "size": {name: ratio(values, ones, every) for name, values in sizes.items()},
        "telling": {
            "of": " or ".join(kind for kind in FOLLOW_UP_KINDS if kind in kinds),
            "rows": len(rows),
            "size": plain.fmean(of(sizes["true"], rows)),
            "unrelated": plain.fmean(of(sizes["unrelated"], rows)),
        },
        "relevance": ratio(sizes["true"], sizes["unrelated"], rows),
        "specificity": ratio(sizes["true"], sizes["shuffled"], rows),
        "template_share": ratio(sizes["template"], sizes["true"], rows),
        "left_by_null_contrast": ratio(left, sizes["true"], rows),
    }


def _by_kind(ready: PreparedAudit, sizes: dict[str, list[float]]) -> dict[str, Any]:
    """Return which interactions carry signal: more than unrelated follow-ups make in 95 of 100."""
    ordered = sorted(sizes["unrelated"])
    threshold = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    carrying = [value > threshold for value in sizes["true"]]
    kinds = {}
    for kind in FOLLOW_UP_KINDS:
        rows = [row for row, found in enumerate(ready.kinds) if found == kind]
        kinds[kind] = {
            "rows": len(rows),
            "size": plain.fmean(sizes["true"][row] for row in rows) if rows else None,
            "carrying": plain.fmean(carrying[row] for row in rows) if rows else None,
        }
    return {"carrying": {"share": plain.fmean(carrying), "threshold": threshold}, "kinds": kinds}


def _places(ready: PreparedAudit, signals: list[list[float]], rows: Sequence[int]) -> dict[str, float]:
    """Return the share of all |signal| by where in the answer it lies; a token counts once, at its first place."""
    shares = dict.fromkeys(("end", "first", "formatting", "rest"), 0.0)
    for row in rows:
        ids = ready.completions[row]
        for place, (piece, value) in enumerate(zip(ready.subject.pieces(ids), signals[row], strict=True)):
            shares[position_kind(place, piece, ids[place] == ready.subject.tokenizer.eos_token_id)] += abs(value)
    total = sum(shares.values()) or 1.0
    return {name: value / total for name, value in shares.items()}


def position_kind(place: int, piece: str, end: bool) -> str:
    """Return end, first, formatting (nothing but space, punctuation and marks of markdown) or rest."""
    if end:
        return "end"
    if place < FIRST:
        return "first"
    formatting = piece and all(char.isspace() or (char.isascii() and not char.isalnum()) for char in piece)
    return "formatting" if formatting else "rest"


def _peaks(ready: PreparedAudit, signals: list[list[float]]) -> dict[str, Any]:
    """Return in how many complaints the largest signal is on the very token that the complaint is about."""
    right, of = 0, 0
    for row, signal in enumerate(signals):
        interaction = ready.sample.rows[row]
        meant = oracle.read_follow_up(interaction.user_response)
        post = interaction.prompt[-1]["content"]
        if meant.kind != "request" or not oracle.violated(
            oracle.read_answer(interaction.completion).style, meant.wanted
        ):
            continue
        place, stop = oracle.departure_index(interaction.completion, post, meant.wanted), 0
        about = len(signal) - 1
        for token, piece in enumerate(ready.subject.pieces(ready.completions[row])):
            stop += len(piece)
            if stop > place:
                about = token
                break
        right += max(range(len(signal)), key=lambda token: abs(signal[token])) == about
        of += 1
    return {"right": right, "of": of}


def _preference(
    ready: PreparedAudit, template: str, world: Annotator, length: int, temperature: float, seed: int
) -> dict[str, Any]:
    """Return how often an answer sampled with hindsight is preferred to one sampled without."""
    rows = [ready.sample.rows[row] for row in ready.informative_rows]
    contexts = [ready.subject.context(row.prompt, row.user_response, template) for row in rows]
    # Another seed: with the same one the answers would be the same wherever hindsight says nothing.
    answers = ready.subject.answer(contexts, length, temperature, seed + 1, say("answered, hindsight"))
    outcomes = world.preferred(
        rows, [text for text, _ in answers], [text for text, _ in ready.plain_answers], ready.subject
    )
    wins, losses = outcomes.count("first"), outcomes.count("second")
    decided = wins + losses
    return {
        "judge": world.judge_name(ready.subject),
        "pairs": len(rows),
        "wins": wins,
        "losses": losses,
        "ties": len(rows) - decided,
        "share": wins / decided if decided else None,
        "interval": wilson(wins, decided - wins) or (0.0, 1.0),
    }
