"""Comparing a canary with what is live: ratings, and follow-ups that complain, each with an interval.

A conversation belongs wholly to one arm, by its id, so the arms differ by chance alone. Only what was said since the
canary began counts, and what branches of a conversation share counts once. The rows of one person count as correlated.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sdpo.data.found import own_words
from sdpo.errors import SettingError
from sdpo.gateway.conversations import conversation_of
from sdpo.learn.collect import open_store
from sdpo.registry.live import Live, of_conversations, read_live
from sdpo.registry.moves import promote, rollback
from sdpo.runtime.commands import on_registry
from sdpo.runtime.statistics import Interval, difference_interval
from sdpo.text.languages import language_of
from sdpo.users.satisfaction import reads_as_satisfied

if TYPE_CHECKING:
    from sdpo.gateway.conversations import StoredConversation
    from sdpo.gateway.store import Store
    from sdpo.runtime.launch import Job
    from sdpo.settings import CanarySettings, RegistrySettings

PROMOTE, KEEP_ON, ROLL_BACK = "promote", "keep on", "roll back"
Rows = list[tuple[str, bool]]  # the person or conversation, and whether it was so


@dataclass
class Arm:
    """What was said to one arm: whether a rating was good, and whether a follow-up did not complain."""

    ratings: Rows = field(default_factory=list)
    follow_ups: Rows = field(default_factory=list)


@dataclass(frozen=True)
class Measure:
    """A share on both arms and the difference, candidate minus live; no interval with too few rows."""

    name: str
    candidate: float | None
    live: float | None
    rows: tuple[int, int]
    difference: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """The decision about a canary, with its reason and what it rests on."""

    decision: str
    reason: str
    measures: tuple[Measure, ...]


def arms(
    conversations: Iterable["StoredConversation"], live: Live, complains: Callable[[str], bool | None]
) -> list[Arm]:
    """Return what was said to the candidate and to what is live, since the canary began."""
    candidate, current = Arm(), Arm()
    assert live.canary is not None
    counted = set[tuple[str, ...]]()
    by_version = {live.canary.version: candidate, live.version or "": current}
    for conversation in conversations:
        if conversation.started_at < live.changed_at:
            continue
        name = conversation_of(conversation.id)
        group = conversation.user or name
        rated = {rating["message"]: rating["rating"] for rating in conversation.ratings}
        for index, version, so_far, follow_up in _answers(conversation):
            arm, answer = by_version.get(version), (name, version, so_far)
            if arm is None:
                continue
            if index in rated and answer not in counted:
                counted.add(answer)
                arm.ratings.append((group, rated[index] > 0))
            if not follow_up or (*answer, follow_up) in counted:
                continue
            counted.add((*answer, follow_up))
            complaint = complains(follow_up)
            if complaint is not None:
                arm.follow_ups.append((group, not complaint))
    return [candidate, current]


def _answers(conversation: "StoredConversation") -> Iterator[tuple[int, str, str, str]]:
    """Yield index, version, hash of all messages up to it, and follow-up (empty if there is none) of each answer."""
    so_far, versions = hashlib.sha256(), iter(conversation.versions)
    for index, message in enumerate(conversation.messages):
        so_far.update(json.dumps(message).encode() + b"\n")
        version = next(versions, None) if message.get("role") == "assistant" else None
        if version is None:
            continue
        after = conversation.messages[index + 1] if index + 1 < len(conversation.messages) else {}
        text = after.get("content") if after.get("role") == "user" else None
        yield index, version, so_far.hexdigest(), own_words(text) if isinstance(text, str) else ""


def compare(candidate: Arm, live: Arm, fewest: int, margin: float) -> Comparison:
    """Return the decision: roll back if a share is clearly worse, promote if none is and none may be by much.

    A share counts once both arms have `fewest` rows. It may be worse by `margin` at the end of its interval, unless
    another share is clearly better.
    """
    pairs = (("good ratings", candidate.ratings, live.ratings), ("no complaint", candidate.follow_ups, live.follow_ups))
    measures = tuple(_measure(name, own, other, fewest) for name, own, other in pairs)
    known = [measure for measure in measures if measure.interval is not None]
    if not known:
        most = max(min(measure.rows) for measure in measures)
        return Comparison(KEEP_ON, f"too few ratings and follow-ups yet: {most} of {fewest} on an arm", measures)
    worse = [measure.name for measure in known if measure.interval and measure.interval[1] < 0]
    if worse:
        return Comparison(ROLL_BACK, f"clearly worse: {', '.join(worse)}", measures)
    better = [measure.name for measure in known if measure.interval and measure.interval[0] > 0]
    if better:
        return Comparison(PROMOTE, f"clearly better: {', '.join(better)}", measures)
    if all(measure.interval and measure.interval[0] >= -margin for measure in known):
        return Comparison(PROMOTE, f"not worse by more than {margin:.0%}", measures)
    return Comparison(KEEP_ON, "neither arm is shown to be better", measures)


def _measure(name: str, candidate: Rows, live: Rows, fewest: int) -> Measure:
    shares = [sum(good for _, good in arm) / len(arm) if arm else None for arm in (candidate, live)]
    rows = (len(candidate), len(live))
    found = difference_interval(candidate, live) if min(rows) >= fewest else None
    return Measure(name, shares[0], shares[1], rows, *(found or (None, None)))


def complaint_reader(tiny: bool) -> Callable[[str], bool | None]:
    """Return the function that says whether a follow-up complains; None for a language that it does not read."""
    if not tiny:
        return _complains_in_english
    from sdpo.tiny import oracle

    def in_tiny_world(text: str) -> bool | None:
        kind = oracle.read_follow_up(text).kind
        return _complains_in_english(text) if kind == "unreadable" else kind == "request"

    return in_tiny_world


def _complains_in_english(text: str) -> bool | None:
    satisfied, language = reads_as_satisfied(text), language_of(text)
    if language is None and satisfied is not None:  # too short to tell the language, but "Too long." is a complaint
        return not satisfied
    return satisfied is False if language == "en" else None


def comparison_of(store: "Store", live: Live, tiny: bool, fewest: int, margin: float) -> Comparison:
    """Return the comparison of the canary with what is live, by the conversations of a store."""
    candidate, current = arms(store.conversations(), live, complaint_reader(tiny))
    return compare(candidate, current, fewest, margin)


def run(settings: "CanarySettings", job: "Job") -> None:
    """Print the comparison, and with FINISH=1 do what it says. Raises SettingError without a canary or a store."""
    live = read_live(settings.registry)
    if live.canary is None:
        raise SettingError(
            f"{settings.registry} has no canary. {on_registry(settings.registry, 'promote', 'CANARY=0.1')} starts one."
        )
    store = open_store(settings)
    comparison = comparison_of(store, live, settings.tiny, settings.canary_min, settings.canary_margin)
    print(f"{live.canary.version} for {of_conversations(live.canary.share)}\n{table(comparison.measures)}\n")
    print(f"{comparison.decision}: {comparison.reason}", flush=True)
    if settings.finish:
        print(finish(settings, comparison), flush=True)


def finish(settings: "RegistrySettings", comparison: Comparison) -> str:
    """Promote the canary or take it back, as the comparison says, and return what was done."""
    canary = read_live(settings.registry).canary
    if canary is None:
        return "there is no canary"
    settings = replace(settings, canary=0.0)  # the share is for a new one
    if comparison.decision == PROMOTE:
        promote(settings, canary.version, force=True, reason=f"canary: {comparison.reason}")
        return f"{canary.version} is live ({comparison.reason})"
    if comparison.decision == ROLL_BACK:
        rollback(settings, reason=f"canary: {comparison.reason}")
        return f"{canary.version} is no longer tried ({comparison.reason})"
    return f"{canary.version} is still tried ({comparison.reason})"


def table(measures: Sequence[Measure]) -> str:
    """Return the measures as a table."""
    rows = [("", "candidate", "live", "difference", "95 %", "rows")]
    rows += [
        (
            measure.name,
            _share(measure.candidate),
            _share(measure.live),
            "–" if measure.difference is None else f"{measure.difference:+.3f}",
            "–" if measure.interval is None else f"[{measure.interval[0]:+.3f}, {measure.interval[1]:+.3f}]",
            f"{measure.rows[0]} and {measure.rows[1]}",
        )
        for measure in measures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _share(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"
