"""The tables of docs/real.md."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sdpo.study.real_training import OFFLINE, ONLINE

# What a run has to reach: adherence, or a gain in it; the rest is about what it may lose.
ADHERENCE, GAIN = 0.85, 0.5
_LEARNED_FROM = {ONLINE: "the user", OFFLINE: "a log"}
MANY_TIMES = 100  # a larger ratio is that to next to nothing
FLUENCY_LOSS, TOPIC_KEPT, DISTANCE, OTHER_STYLES = 0.15, 0.8, 0.05, 0.10


def report(results: Sequence[dict[str, Any]]) -> str:
    """Return the text of real.md."""
    signal = [row for row in results if row["kind"] == "signal"]
    training = [row for row in results if row["kind"] == "training"]
    lines = [
        "# The study on real models",
        "",
        "Written by `make study-real`; each result is a line of `real.jsonl`. The user is a rule "
        "(`USER_MODEL_NAME_OR_PATH=rule`), the prompts are this project's own (`make prep-english`).",
        "",
    ]
    audits = [row for row in results if row["kind"] == "audit"]
    tables = [*_signal_table(signal), *_training_table(training), *_audit_table(audits, training)]
    return "\n".join([*lines, *tables]) + "\n"


def reached(row: dict[str, Any]) -> dict[str, bool]:
    """Return what a training run has to reach, by name, and whether it does."""
    before, shown, after = row["before"], row["shown"], row["after"]
    return {
        "style": after["adherence"] >= ADHERENCE or after["adherence"] - before["adherence"] >= GAIN,
        "fluency": before["fluency"] - after["fluency"] <= FLUENCY_LOSS,
        "on topic": after["topic"] >= TOPIC_KEPT * shown["topic"],
        "distance": after["distance"] is None or after["distance"] <= DISTANCE,
        "other styles": other_styles(row)[1] <= OTHER_STYLES,
        "no leaks": after["leak"] <= 0.01,
    }


def succeeded(row: dict[str, Any]) -> bool:
    """Return whether a run moved the model towards the style and harmed little: what an audit can foresee.

    That is half of the gain that the line asks for, or of what is missing to its adherence, with its limits on fluency
    and topic, and no stop by the guard. A model that had that adherence before has nothing to learn.
    """
    before, after = row["before"]["adherence"], row["after"]["adherence"]
    enough = before + min(GAIN, ADHERENCE - before) / 2 if before < ADHERENCE else 1.0
    unharmed = all(reached(row)[name] for name in ("fluency", "on topic"))
    return after >= enough and unharmed and not row["stopped"]


def other_styles(row: dict[str, Any]) -> tuple[float, float]:
    """Return by how much the share of answers that fit some other style moved at most, and moved beyond the wish.

    The second is what lies outside the range from before training to the model before training that is shown the wish:
    a wish for brevity leaves out lists as well.
    """
    before, shown, after = row["before"]["axes"], row["shown"]["axes"], row["after"]["axes"]
    moved, beyond = 0.0, 0.0
    for style, share in after.items():
        low, high = sorted((before[style], shown[style]))
        moved = max(moved, abs(share - before[style]))
        beyond = max(beyond, share - high, low - share)
    return moved, beyond


def _signal_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## What the signal distinguishes",
        "",
        "Mean size of a token's signal in nats, over answers to held-out prompts, with held-out wordings; complaints "
        "are about something that the answer does. A margin is that of CONTRAST_MARGIN, `-` is without NULL_CONTRAST; "
        "in brackets 95 % intervals over answers. `alone` is with LEARN_FROM=complaints: a row counts only if the "
        "model's own hidden states say that its message is a complaint.",
        "",
        "| model | template | margin | complaint | thanks | unrelated | complaint / unrelated | alone | "
        "thanks / complaint | alone |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        margin = "-" if row["margin"] is None else f"{row['margin']:g}"
        alone = row.get("complaints_alone")
        ratios = (
            _interval(of[name]) if of else "not measured"
            for name in ("complaint_over_unrelated", "thanks_over_complaint")
            for of in (row, alone)
        )
        sizes = (f"{row[kind]:.3f}" for kind in ("complaint", "thanks", "unrelated"))
        lines.append("| " + " | ".join([row["model"], row["template"], margin, *sizes, *ratios]) + " |")
    return [*lines, ""]


def _training_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## What training changes",
        "",
        "Before → after; `shown` is the model before training with the wish in its context. A run learns from a user "
        "who replies to its answers as it trains, or offline from a log of its answers before training. It reaches the "
        f"line if adherence is {ADHERENCE} or {GAIN} more than before, fluency falls by {FLUENCY_LOSS} nats a token at "
        f"most, answers are on topic at {TOPIC_KEPT:g} of `shown`, the distance on general prompts is at most "
        f"{DISTANCE} nats, and no more than 1 % of the answers are leaks. `others` is by how much the share of answers "
        "that fit some other style moved at most and, after the slash, how far beyond what the wish in the context "
        "does to it: a wish for brevity leaves out lists as well. The latter may be "
        f"{OTHER_STYLES:g} at most.",
        "",
        "| model | style | learned from | settings | seed | device | interactions | adherence | shown | fluency | "
        "on topic | leaks | distance | others | not reached | guard |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["model"], row["variant"], row["style"], row["seed"])):
        before, shown, after = row["before"], row["shown"], row["after"]
        missed = ", ".join(name for name, passed in reached(row).items() if not passed) or "-"
        changes = [f"{before[name]:.2f} → {after[name]:.2f}" for name in ("adherence", "fluency", "topic", "leak")]
        cells = [
            row["model"],
            row["style"],
            _LEARNED_FROM[row.get("job", ONLINE)],
            row["variant"],
            str(row["seed"]),
            row.get("device") or "CPU",
            str(row["interactions"]),
            changes[0],
            f"{shown['adherence']:.2f}",
            *changes[1:],
            "-" if after["distance"] is None else f"{after['distance']:.3f}",
            "{:.2f} / {:.2f}".format(*other_styles(row)),
            missed,
            f"stopped at step {row['stopped']['step']}" if row["stopped"] else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    share = fmean(all(reached(row).values()) for row in rows)
    return [*lines, "", f"{share:.0%} of the runs reach the line.", ""]


def _audit_table(audits: Sequence[dict[str, Any]], training: Sequence[dict[str, Any]]) -> list[str]:
    outcomes: dict[tuple[str, ...], list[bool]] = {}
    for row in training:
        outcomes.setdefault(_combination(row), []).append(succeeded(row))
    rows = [(row, outcomes[_combination(row)]) for row in audits if _combination(row) in outcomes]
    if not rows:
        return []
    lines = [
        "## What the audit said beforehand",
        "",
        "The audit reads some of the model's own answers with the rule user's follow-ups, before any training. A run "
        "succeeds if adherence gains half of what the line asks for, with its limits on fluency and topic, and the "
        "guard does not stop it; where the model fits the style already, there is nothing to gain.",
        "",
        "| model | style | settings | audit | answers of the target preferred | training succeeded | agrees |",
        "|---|---|---|---|---|---|---|",
    ]
    agreed = 0
    for row, successes in rows:
        agrees = (row["verdict"] != "stop") == (sum(successes) * 2 > len(successes))
        agreed += agrees
        preference = row["preference"]
        decided = preference["wins"] + preference["losses"]
        preferred = f"{preference['wins']} of {decided}"
        cells = [row["model"], row["style"], row["variant"], row["verdict"], preferred]
        lines.append(f"| {' | '.join(cells)} | {sum(successes)} of {len(successes)} | {'yes' if agrees else 'no'} |")
    return [*lines, "", f"The verdict agrees with the outcome in {agreed} of {len(rows)}.", ""]


def _combination(row: dict[str, Any]) -> tuple[str, ...]:
    return row["model"], row["style"], row["variant"]


def _interval(values: Sequence[float]) -> str:
    value, low, high = (f"{value:.2f}" if value < MANY_TIMES else f"over {MANY_TIMES}" for value in values)
    return f"{value} ({low} to {high})"
