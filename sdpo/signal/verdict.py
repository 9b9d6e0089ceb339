"""The audit's verdict (go, go with changes or stop), by thresholds that were fixed before the models that test them.

They were set on the shipped tiny model and on fine-tunes of it that had unlearned hindsight, training seed 100
(`sdpo.tiny.hindsight_variants`); the models that test the audit have other seeds. What it said of
real models is in docs/real.md.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sdpo.settings.training import RULE
from sdpo.text.prompts import HINDSIGHT_TEMPLATES

GO, CHANGES, STOP = "go", "go with changes", "stop"
COMPARE_OTHERS = "Compare others with TEMPLATES, and take the one that does best."
_FORWARD_STRENGTH = 2  # the strength at which it learned another language (docs/results.md)
SHIPPED = "shipped"  # the name of this project's own template


@dataclass(frozen=True)
class Thresholds:
    """The threshold of each metric. `low` stands for the lower end of the metric's 95 % interval."""

    # Below this, unrelated messages change an answer about as much as complaints: ratio of mean |signal|, low.
    relevance: float = 2.0
    # Answers of the target whose tokens are less likely than the model's own by more than this are no language.
    surprise: float = 0.2
    # If more of them than this need a token that the model hardly ever says, its own answers cannot show it: share. On
    # Qwen2.5-Coder-0.5B 0.56 for another language, which the reverse divergence did not teach, and 0.14 for one
    # sentence, which it did.
    out_of_reach: float = 0.3
    # A smaller signal is rounding noise of the answer's probability: mean |signal| per token, nats.
    size: float = 0.03
    # An answer sampled with hindsight must be preferred to one without: wins over decided pairs, low.
    preference: float = 0.5
    # From this value on, subtract the template's own signal: its mean |signal| over that of the true follow-up.
    template: float = 0.3
    # From this value on, the template dominates the signal: the same ratio.
    template_alone: float = 0.7
    # If fewer interactions than this carry signal, training on the others is training on noise: share.
    carrying: float = 0.4
    # If one position of the answer holds more of the signal than this, training mostly changes that position: share.
    place: float = 0.5
    # A model that predicts the logged answers no better than their token frequencies does not read the language, nor
    # does one whose tokenizer lacks more than this share of its tokens.
    reading: float = 1.0
    unknown: float = 0.2
    # Fewer rows than this are too few for any conclusion.
    rows: int = 8


THRESHOLDS = Thresholds()


@dataclass
class Verdict:
    """The audit's verdict on a model with a template. `cause` of a stop is "model", "template" or "data"."""

    verdict: str
    cause: str | None = None
    reasons: list[str] = field(default_factory=list)
    changes: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return asdict(self)


def judge(metrics: dict[str, Any], limits: Thresholds = THRESHOLDS) -> Verdict:
    """Return the verdict on one candidate by itself, from its metrics (see `audit_measures.measure_candidate`)."""
    tests = [_size(metrics, limits), _preference(metrics, limits), _language(metrics, limits)]
    reasons = [_relevance(metrics, limits)[1], *(text for _, text in tests)]
    if not all(passed for passed, _ in tests):
        cause, text = _cause(metrics, limits)
        return Verdict(STOP, cause, [*reasons, text])
    changes = _changes(metrics, limits)
    return Verdict(CHANGES if changes else GO, None, reasons, changes)


def compare(verdicts: Sequence[tuple[str, str, Verdict]], file: str | None = None) -> None:
    """Correct the cause of stops in place, by how other templates did with the same model.

    Each row is (model, template, verdict); `file` is the template that HINDSIGHT_FILE names, if it is set. If a model
    follows hindsight under one template, it is not the cause of a stop under another.
    """
    for model, _, verdict in verdicts:
        if verdict.cause == "model" and "cannot read the language" in verdict.reasons[-1]:
            continue
        works = [name for other, name, result in verdicts if other == model and result.verdict != STOP]
        if verdict.verdict == STOP and works:
            verdict.cause = "template"
            verdict.reasons[-1] = f"The same model follows hindsight under {works[0]}: this template is the cause."
            why = f"the {works[0]} template works with this model and data"
            name = "HINDSIGHT_TEMPLATE" if works[0] in HINDSIGHT_TEMPLATES else "HINDSIGHT_FILE"
            # What is set already is no change.
            if works[0] == SHIPPED:
                verdict.changes = [_change("no HINDSIGHT_FILE", why)] if file else []
            elif works[0] != file:
                verdict.changes = [_change(f"{name}={works[0]}", why)]
        elif verdict.cause == "template" and len({name for other, name, _ in verdicts if other == model}) > 1:
            verdict.reasons[-1] = verdict.reasons[-1].replace(COMPARE_OTHERS, "No other template tried does better.")


def _relevance(metrics: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    ratio, (low, high) = metrics["relevance"]["value"], metrics["relevance"]["interval"]
    passed = low >= limits.relevance
    return passed, (
        f"The true follow-up makes {ratio:.2f} times as large a signal as an unrelated one "
        f"(95 % interval {low:.2f} to {high:.2f}; {_limit(passed, limits.relevance)})."
    )


def _size(metrics: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    size = metrics["telling"]["size"]
    passed = size >= limits.size
    return passed, (
        f"It changes a token's log-probability by {size:.4f} nats on average ({_limit(passed, limits.size)})."
    )


def _language(metrics: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    surprise = metrics["surprise"]
    passed = surprise <= limits.surprise
    return passed, (
        f"Their tokens are {abs(surprise):.2f} nats {'more' if surprise < 0 else 'less'} likely than those of the "
        f"model's own answers (at most {limits.surprise:g} less, {'met' if passed else 'not met'})."
    )


def _limit(passed: bool, limit: float) -> str:
    return f"at least {limit:g} required, {'met' if passed else 'not met'}"


def _preference(metrics: dict[str, Any], limits: Thresholds) -> tuple[bool, str]:
    preference = metrics["preference"]
    share, (low, high), decided = preference["share"], preference["interval"], preference["wins"] + preference["losses"]
    if decided < limits.rows:
        advice = "Raise AUDIT_N if DATA has more rows, or name another JUDGE_MODEL."
        if preference["judge"] == RULE:
            advice = "Of the others both answers fit STYLE, or neither does."
        return False, (
            f"Of {preference['pairs']} pairs of answers with and without hindsight {preference['judge']} decided "
            f"{decided}: too few to tell which answers are better. {advice}"
        )
    passed = low > limits.preference
    source = "from the contrast, as NULL_CONTRAST trains," if metrics["null_contrast"] else "with hindsight"
    words = "are preferred" if passed else "are not shown to be better" if high > 0.5 else "are worse"
    return passed, (
        f"Answers sampled {source} {words}: they win {preference['wins']} of {decided} decided pairs "
        f"({100 * share:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %; judge: {preference['judge']})."
    )


def _cause(metrics: dict[str, Any], limits: Thresholds) -> tuple[str, str]:
    if text := _unread(metrics, limits):
        return "model", text
    if not _language(metrics, limits)[0]:
        return "template", (
            "What the follow-up does is too strong for this model's language: give a higher CONTRAST_PLAUSIBILITY or a "
            "lower CONTRAST_STRENGTH."
        )
    share = metrics["template_share"]["value"]
    if share >= limits.template_alone and metrics["telling"]["size"] >= limits.size:
        return "template", (
            f"The template without a follow-up makes a signal {share:.0%} the size of the one with a follow-up: the "
            f"template is the cause. {COMPARE_OTHERS}"
        )
    if metrics["kinds"]["complaint"]["rows"] < limits.rows and metrics["telling"]["of"] != "complaint":
        return "data", (
            "Hardly any follow-up in DATA is about the answer before it: the data is the cause. Audit other data."
        )
    wins, losses = metrics["preference"]["wins"], metrics["preference"]["losses"]
    by_rule = metrics["preference"]["judge"] == RULE
    if wins + losses < limits.rows and by_rule:
        return "data", (
            "In nearly all pairs both answers fit STYLE, or neither does: the rule cannot tell what hindsight does. "
            "Audit a style that some of the model's answers fit and some do not."
        )
    if wins + losses < limits.rows and wins > losses and _size(metrics, limits)[0]:
        return "data", (
            "Too few pairs of answers were decided to say whether hindsight helps. That is no verdict on the model: "
            "the data is the cause. Raise AUDIT_N if DATA has more rows, or add conversations."
        )
    if _relevance(metrics, limits)[0] and _size(metrics, limits)[0]:
        if by_rule:
            return "data", (
                "The follow-ups move the answers, but not towards STYLE: the data or the model is the cause. Check "
                "first that the users of DATA ask for STYLE; if they do, choose another MODEL."
            )
        return "model", (
            "The follow-ups move the answers, but not to ones that the judge prefers: the model makes too little of "
            "them. Choose another MODEL."
        )
    return "model", "The model does not use the hindsight context: the model is the cause. Choose another MODEL."


def _unread(metrics: dict[str, Any], limits: Thresholds) -> str | None:
    """Return in words that the model cannot read the language of the data; None if it can, or if that is not known."""
    reading = metrics.get("reading")
    if reading is None:
        return None
    if reading["unknown"] > limits.unknown:
        found = f"The model's tokenizer does not know {reading['unknown']:.0%} of the tokens of the logged answers"
    elif reading["nats"] >= limits.reading * reading["frequencies"]:
        found = (
            f"The model predicts the logged answers ({reading['nats']:.1f} nats per token) no better than the "
            f"frequencies of their tokens do ({reading['frequencies']:.1f})"
        )
    else:
        return None
    return f"{found}: it cannot read the language of DATA, and is the cause. Choose a MODEL for that language."


def _changes(metrics: dict[str, Any], limits: Thresholds) -> list[dict[str, str]]:
    """Return the changes to make, each with the trainer setting for it."""
    changes = []
    if not _relevance(metrics, limits)[0]:
        why = (
            "a message that has nothing to do with the answer changes it nearly as much as a complaint does: learn "
            "from complaints alone"
        )
        changes.append(_change("LEARN_FROM=complaints", why))
    if (unseen := metrics["out_of_reach"]) > limits.out_of_reach:
        why = (
            f"{unseen:.0%} of the answers with hindsight have a token that the model itself says less than once in "
            "10,000 times: OBJECTIVE=token never samples it, and the reverse divergence hardly counts it"
        )
        changes += [_change("OBJECTIVE=full", why), _change("DIRECTION=forward", "it counts such tokens")]
        if metrics["null_contrast"] and metrics["contrast_strength"] > _FORWARD_STRENGTH:
            why = "a stronger contrast came apart with the forward divergence"
            changes.append(_change(f"CONTRAST_STRENGTH={_FORWARD_STRENGTH}", why))
    share = metrics["template_share"]["value"]
    if share >= limits.template and not metrics["null_contrast"]:
        why = f"the template alone makes a signal {share:.0%} the size of the true follow-up's: subtract it"
        changes.append(_change("NULL_CONTRAST=1", why))
    carrying = metrics["carrying"]
    if carrying["share"] < limits.carrying:
        idle = [
            kind
            for kind, row in metrics["kinds"].items()
            if row["rows"] >= limits.rows and row["carrying"] < limits.carrying / 2
        ]
        kinds = f" (hardly any of the kind {' or '.join(idle)})" if idle else ""
        changes.append(
            _change(
                # A setting of offline training; online training uses each interaction as it comes.
                f"MIN_SIGNAL={carrying['threshold']:.3g}",
                f"only {carrying['share']:.0%} of the interactions carry signal{kinds}: leave out rows whose mean "
                "|signal| is no larger than that of unrelated follow-ups",
            )
        )
    places = metrics["places"]
    if places["first"] > limits.place:
        changes.append(
            _change(
                "IGNORE_FIRST_K=2",
                f"{places['first']:.0%} of the signal is on the first two tokens (offline training ignores them)",
            )
        )
    if places["end"] > limits.place:
        changes.append(
            _change(
                "keep GUARD=stop", f"{places['end']:.0%} of the signal is on the end token: watch the answers' length"
            )
        )
    return changes


def _change(setting: str, why: str) -> dict[str, str]:
    return {"setting": setting, "why": why}
