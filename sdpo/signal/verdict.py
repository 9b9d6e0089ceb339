"""The audit's verdict: go, go with changes or stop, by thresholds that were fixed before the models that test them.

They were set on the shipped tiny model and on fine-tunes of it that had unlearned hindsight, training seed 100
(`sdpo.tiny.hindsight_variants`); the models that test the audit have other seeds. No large model has been audited yet.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

GO, CHANGES, STOP = "go", "go with changes", "stop"
SHIPPED = "shipped"  # the name of our own template


@dataclass(frozen=True)
class Thresholds:
    """What is asked of each figure. `low` is the lower end of a 95 % interval."""

    # The true follow-up must move an answer more than an unrelated one does: ratio of mean |signal|, low.
    relevance: float = 2.0
    # Smaller than this a signal is a rounding of the answer's probability: mean |signal| per token, nats.
    size: float = 0.03
    # An answer sampled with hindsight must be preferred to one without, wins over decided pairs, low.
    preference: float = 0.5
    # From here on the template's own part of the signal is worth taking off: mean |signal| over that of the true one.
    template: float = 0.3
    # From here on the template is what the signal is about.
    template_alone: float = 0.7
    # If fewer interactions than this carry any signal, the rest is noise to train on: share.
    carrying: float = 0.4
    # If more of the signal than this lies in one place, training changes that place: share.
    place: float = 0.5
    # With fewer rows than this nothing is said of them.
    rows: int = 8


THRESHOLDS = Thresholds()


@dataclass
class Verdict:
    """What the audit says of a model with a template. `cause` of a stop is model, template or data."""

    verdict: str
    cause: str | None = None
    reasons: list[str] = field(default_factory=list)
    changes: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return asdict(self)


def judge(found: dict[str, Any], limits: Thresholds = THRESHOLDS) -> Verdict:
    """Return the verdict on one candidate's figures (see `candidate.figures`), taken by itself."""
    tests = [_relevance(found, limits), _size(found, limits), _preference(found, limits)]
    reasons = [words for _, words in tests]
    if not all(passed for passed, _ in tests):
        cause, words = _cause(found, limits)
        return Verdict(STOP, cause, [*reasons, words])
    changes = _changes(found, limits)
    return Verdict(CHANGES if changes else GO, None, reasons, changes)


def compare(verdicts: Sequence[tuple[str, str, Verdict]]) -> None:
    """Correct the cause of stops by what other templates did with the same model: (model, template, verdict) each.

    A model that follows hindsight under one template is not what stops another.
    """
    for model, _, verdict in verdicts:
        works = [name for other, name, found in verdicts if other == model and found.verdict != STOP]
        if verdict.verdict == STOP and works:
            verdict.cause = "template"
            verdict.reasons[-1] = f"The same model follows hindsight under {works[0]}: this template is the cause."
            setting = "no HINDSIGHT_FILE" if works[0] == SHIPPED else f"HINDSIGHT_FILE={works[0]}"
            verdict.changes = [_change(setting, f"the {works[0]} template works with this model and data")]


def _relevance(found: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    ratio, (low, high) = found["relevance"]["value"], found["relevance"]["interval"]
    passed = low >= limits.relevance
    return passed, (
        f"The true follow-up moves an answer {ratio:.2f} times as much as an unrelated one ({low:.2f} to {high:.2f}; "
        f"{'at least' if passed else 'asked for at least'} {limits.relevance:g})."
    )


def _size(found: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    size = found["telling"]["size"]
    passed = size >= limits.size
    return passed, (
        f"It moves a token's log-probability by {size:.4f} nats on average "
        f"({'at least' if passed else 'asked for at least'} {limits.size:g})."
    )


def _preference(found: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    preferred = found["preference"]
    share, (low, high), decided = preferred["share"], preferred["interval"], preferred["wins"] + preferred["losses"]
    if decided < limits.rows:
        return False, (
            f"Of {preferred['pairs']} pairs of answers with and without hindsight {decided} were decided by "
            f"{preferred['judge']}: too few to say which are better. Raise AUDIT_N, or name another JUDGE_MODEL."
        )
    passed = low > limits.preference
    words = "are preferred" if passed else "are not shown to be better" if high > 0.5 else "are worse"
    return passed, (
        f"Answers sampled with hindsight {words}: {share:.2f} of {decided} decided pairs ({low:.2f} to {high:.2f}), "
        f"by {preferred['judge']}."
    )


def _cause(found: dict[str, Any], limits: Thresholds) -> tuple[str, str]:
    share = found["template_share"]["value"]
    if share >= limits.template_alone and found["telling"]["size"] >= limits.size:
        return "template", (
            f"The template without any follow-up makes {share:.0%} as large a signal as with one: the template is the "
            "cause. Leave HINDSIGHT_FILE unset, or word it another way."
        )
    if found["kinds"]["complaint"]["rows"] < limits.rows and found["telling"]["of"] != "complaint":
        return "data", (
            "Hardly any follow-up in DATA is about the answer before it: the data are the cause. Audit other ones."
        )
    return (
        "model",
        "The model does not use what it is shown in hindsight: the model is the cause. Choose another MODEL.",
    )


def _changes(found: dict[str, Any], limits: Thresholds) -> list[dict[str, str]]:
    """Return what to change, each with the setting that the trainers have for it."""
    changes = []
    share = found["template_share"]["value"]
    if share >= limits.template:
        changes.append(
            _change("NULL_CONTRAST=1", f"the template alone makes {share:.0%} as large a signal: take it off")
        )
    carrying = found["carrying"]
    if carrying["share"] < limits.carrying:
        idle = [
            kind
            for kind, row in found["kinds"].items()
            if row["rows"] >= limits.rows and row["carrying"] < limits.carrying / 2
        ]
        kinds = f", hardly any of the kind {' or '.join(idle)}" if idle else ""
        changes.append(
            _change(
                # Offline training has it; online, an interaction is used as it comes.
                f"MIN_SIGNAL={carrying['threshold']:.3g}",
                f"{carrying['share']:.0%} of the interactions carry signal{kinds}: leave out rows whose mean |signal| "
                "is what unrelated follow-ups make",
            )
        )
    places = found["places"]
    if places["first"] > limits.place:
        changes.append(_change("IGNORE_FIRST_K=2", f"{places['first']:.0%} of the signal lies on the first two tokens"))
    if places["end"] > limits.place:
        changes.append(
            _change("GUARD=stop", f"{places['end']:.0%} of the signal lies on the end of answers: watch their length")
        )
    return changes


def _change(setting: str, why: str) -> dict[str, str]:
    return {"setting": setting, "why": why}
