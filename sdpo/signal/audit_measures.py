"""The audit's metrics of one model with one hindsight template, on sampled interactions."""

import statistics
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any, TypeVar

from sdpo.models.answer_quality import surprise_of
from sdpo.runtime.statistics import ratio_interval, share_interval
from sdpo.signal.annotator import Annotator
from sdpo.signal.audit_sample import PreparedAudit, Target
from sdpo.signal.loaded_model import LoadedModel, signal_of, size_of
from sdpo.text.hindsight import HindsightTemplate
from sdpo.text.prompts import FOLLOW_UP_KINDS
from sdpo.text.records import Interaction
from sdpo.tiny import oracle

T = TypeVar("T")

_PROGRESS_NAMES = {
    "true": "true follow-ups",
    "shuffled": "shuffled follow-ups",
    "unrelated": "unrelated follow-ups",
    "template": "template alone",
}
EXAMPLES = 8  # how many answers with and without hindsight are kept
FIRST = 2  # how many tokens count as an answer's first
# A token that the follow-up makes at least this likely, and that the model without it says less often than this, is out
# of its reach: it hardly ever samples it.
LIKELY, HARDLY_EVER = 0.1, 1e-4


def measure_candidate(
    prepared: PreparedAudit,
    template: HindsightTemplate,
    target: Target,
    annotator: Annotator,
    length: int,
    temperature: float,
    seed: int,
) -> dict[str, Any]:
    """Return the metrics that `verdict.judge` reads; sizes are mean |signal| per token of a row, in nats."""
    subject, sample = prepared.subject, prepared.sample
    signals: dict[str, list[list[float]]] = {}
    for name, follow_ups in sample.follow_ups.items():
        contexts = [
            subject.context(row.prompt, follow_up, template)
            for row, follow_up in zip(sample.rows, follow_ups, strict=True)
        ]
        logps = subject.logps(contexts, prepared.completions, f"scoring with hindsight, {_PROGRESS_NAMES[name]}")
        signals[name] = [signal_of(*pair) for pair in zip(logps, prepared.bare, strict=True)]
    sizes = {name: [size_of(signal) for signal in rows] for name, rows in signals.items()}
    metrics = _sizes(prepared, sizes, signals)
    metrics |= _by_kind(prepared, sizes)
    metrics["reading"] = reading(prepared.completions, prepared.bare, subject.tokenizer.unk_token_id)
    metrics["places"] = _places(prepared, signals["true"], range(len(sample.rows)))
    if annotator.tiny:
        metrics["peaks"] = _peaks(prepared, signals["true"])
    # A different seed: with the same one the answers would be identical wherever hindsight changes nothing.
    rows = [sample.rows[row] for row in prepared.informative_rows]
    answers = target.answer(subject, rows, template, length, temperature, seed + 1, "answers with hindsight")
    metrics["preference"] = _preference(prepared, annotator, rows, [text for text, _ in answers])
    metrics |= nearness(subject, rows, template, answers)
    metrics["null_contrast"] = target.objective.null_contrast
    metrics["contrast_strength"] = target.objective.contrast_strength
    return metrics


def reading(
    completions: Sequence[Sequence[int]], logps: Sequence[Sequence[float]], unknown: int | None
) -> dict[str, float]:
    """Return how well a model reads logged answers, from their tokens and its log-probability of each.

    `nats` is the model's mean surprise per token; `frequencies` that of a reader who knows only how often each token
    occurs elsewhere in these answers, with add-one smoothing; `unknown` the share of tokens that the tokenizer does
    not know.
    """
    tokens = [token for row in completions for token in row]
    counts = Counter(tokens)
    return {
        "nats": -statistics.fmean(value for row in logps for value in row),
        # The token itself is left out, so that (count - 1) + 1 remain, of (all - 1) + (kinds + 1).
        "frequencies": statistics.fmean(log((len(tokens) + len(counts)) / counts[token]) for token in tokens),
        "unknown": counts[unknown] / len(tokens) if unknown is not None else 0.0,
    }


def _sizes(
    prepared: PreparedAudit, sizes: dict[str, list[float]], signals: dict[str, list[list[float]]]
) -> dict[str, Any]:
    """Return mean |signal| by what was shown in hindsight, and its ratios, with 95 % intervals."""
    groups, rows = prepared.sample.groups, prepared.informative_rows

    def select(values: Sequence[T], chosen: Sequence[int]) -> list[T]:
        return [values[row] for row in chosen]

    def ratio(above: Sequence[float], below: Sequence[float], chosen: Sequence[int]) -> dict[str, Any]:
        # No division by zero if a follow-up changes nothing at all.
        under = [max(value, 1e-9) for value in select(below, chosen)]
        value, interval = ratio_interval(select(above, chosen), under, select(groups, chosen))
        return {"value": value, "interval": interval}

    # What remains of the true follow-up's signal after the unrelated one's is subtracted, as NULL_CONTRAST does.
    left = [
        size_of([true - null for true, null in zip(*pair, strict=True)])
        for pair in zip(signals["true"], signals["unrelated"], strict=True)
    ]
    every, ones = range(len(groups)), [1.0] * len(groups)
    kinds = {prepared.kinds[row] for row in rows}
    return {
        "size": {name: ratio(values, ones, every) for name, values in sizes.items()},
        "telling": {
            "of": " or ".join(kind for kind in FOLLOW_UP_KINDS if kind in kinds),
            "rows": len(rows),
            "size": statistics.fmean(select(sizes["true"], rows)),
            "unrelated": statistics.fmean(select(sizes["unrelated"], rows)),
        },
        "relevance": ratio(sizes["true"], sizes["unrelated"], rows),
        "specificity": ratio(sizes["true"], sizes["shuffled"], rows),
        "template_share": ratio(sizes["template"], sizes["true"], rows),
        "left_by_null_contrast": ratio(left, sizes["true"], rows),
    }


def _by_kind(prepared: PreparedAudit, sizes: dict[str, list[float]]) -> dict[str, Any]:
    """Return the share of interactions that carry signal, overall and by kind of follow-up.

    An interaction carries signal if its mean |signal| is above the 95th percentile of unrelated follow-ups.
    """
    ordered = sorted(sizes["unrelated"])
    threshold = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    carrying = [value > threshold for value in sizes["true"]]
    kinds = {}
    for kind in FOLLOW_UP_KINDS:
        rows = [row for row, label in enumerate(prepared.kinds) if label == kind]
        kinds[kind] = {
            "rows": len(rows),
            "size": statistics.fmean(sizes["true"][row] for row in rows) if rows else None,
            "carrying": statistics.fmean(carrying[row] for row in rows) if rows else None,
        }
    return {"carrying": {"share": statistics.fmean(carrying), "threshold": threshold}, "kinds": kinds}


def _places(prepared: PreparedAudit, signals: list[list[float]], rows: Sequence[int]) -> dict[str, float]:
    """Return the share of all |signal| by position in the answer; each token counts for the first kind that applies."""
    shares = dict.fromkeys(("end", "first", "formatting", "rest"), 0.0)
    for row in rows:
        ids = prepared.completions[row]
        pieces = prepared.subject.pieces(ids)
        for index, (piece, value) in enumerate(zip(pieces, signals[row], strict=True)):
            end = ids[index] == prepared.subject.tokenizer.eos_token_id
            shares[position_kind(index, piece, end)] += abs(value)
    total = sum(shares.values()) or 1.0
    return {name: value / total for name, value in shares.items()}


def position_kind(index: int, piece: str, end: bool) -> str:
    """Return "end", "first", "formatting" (only whitespace, punctuation and Markdown markers) or "rest"."""
    if end:
        return "end"
    if index < FIRST:
        return "first"
    formatting = piece and all(char.isspace() or (char.isascii() and not char.isalnum()) for char in piece)
    return "formatting" if formatting else "rest"


def _peaks(prepared: PreparedAudit, signals: list[list[float]]) -> dict[str, Any]:
    """Return in how many of the complaints (`of`) the largest signal is on the token complained about (`right`)."""
    right, of = 0, 0
    for row, signal in enumerate(signals):
        interaction = prepared.sample.rows[row]
        meaning = oracle.read_follow_up(interaction.user_response)
        post = interaction.prompt[-1]["content"]
        if meaning.kind != "request" or not oracle.violated(
            oracle.read_answer(interaction.completion).style, meaning.wanted
        ):
            continue
        departure, stop = oracle.departure_index(interaction.completion, post, meaning.wanted), 0
        target = len(signal) - 1
        for token, piece in enumerate(prepared.subject.pieces(prepared.completions[row])):
            stop += len(piece)
            if stop > departure:
                target = token
                break
        right += max(range(len(signal)), key=lambda token: abs(signal[token])) == target
        of += 1
    return {"right": right, "of": of}


def _preference(
    prepared: PreparedAudit, annotator: Annotator, rows: Sequence[Interaction], answers: Sequence[str]
) -> dict[str, Any]:
    """Return how often an answer sampled with hindsight is preferred to one sampled without."""
    plain = [text for text, _ in prepared.plain_answers]
    outcomes = annotator.preferred(rows, answers, plain, prepared.subject)
    wins, losses = outcomes.count("first"), outcomes.count("second")
    decided = wins + losses
    pairs = zip(rows, outcomes, strict=True)
    rated = [(row.conversation_id, outcome == "first") for row, outcome in pairs if outcome in ("first", "second")]
    return {
        "judge": annotator.judge_name(prepared.subject),
        "pairs": len(rows),
        "wins": wins,
        "losses": losses,
        "ties": len(rows) - decided,
        "share": wins / decided if decided else None,
        "interval": share_interval(rated),
        "examples": [
            {"prompt": row.prompt[-1]["content"], "follow_up": row.user_response, "without": without, "with": answer}
            for row, without, answer in list(zip(rows, plain, answers, strict=True))[:EXAMPLES]
        ],
    }


def nearness(
    subject: LoadedModel,
    rows: Sequence[Interaction],
    template: HindsightTemplate,
    answers: Sequence[tuple[str, bool]],
) -> dict[str, float]:
    """Return how near the answers of the target are to what the model itself says.

    `surprise` is the mean surprise of a token in nats, after the prompt or hindsight, the lower of both;
    `out_of_reach` the share of answers with a token that the follow-up makes likely, although the model without it
    hardly ever samples it.
    """
    completions = [subject.completion(*answer) for answer in answers]
    bare = subject.score([subject.context(row.prompt) for row in rows], completions)
    hindsight = subject.score([subject.context(row.prompt, row.user_response, template) for row in rows], completions)
    surprises = zip(surprise_of(bare).tolist(), surprise_of(hindsight).tolist(), strict=True)
    new_BT = (bare.logps_BT < log(HARDLY_EVER)) & (hindsight.logps_BT >= log(LIKELY)) & (bare.mask_BT > 0)
    return {
        "surprise": statistics.fmean(map(min, surprises)),
        "out_of_reach": new_BT.any(1).float().mean().item(),
    }
