"""The sections of a night of learning, from the journal of `make learn`, and of an audit."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sdpo.report.folder import EVALUATION, LEARN_FILE, Folder, listing, mappings, number
from sdpo.report.html import bullets, cut, duration, joined, moment, shown, table

# Fingerprints by which the journal finds what it has done: nothing to read.
_FINGERPRINTS = {"inputs", "output"}
_COLUMNS = ("stage", "sentence", "outcome", "seconds", "at")
# What the sentence says already, or only the next stage reads.
_FOR_STAGES = {"started", "changes", "interactions"}


def journal(folder: Folder) -> Markup:
    """Return the journal as a table, one row per stage: what it found, what was decided, how long it took."""
    rows = []
    for row in folder.rows(LEARN_FILE):
        rest = [
            f"{name.replace('_', ' ')} {_text(value)}"
            for name, value in row.items()
            if name not in {*_COLUMNS, *_FINGERPRINTS, *_FOR_STAGES} and value not in (None, [], {})
        ]
        sentence = "; ".join(filter(None, [_text(row.get("sentence")), *rest]))
        took = duration(row.get("seconds")) if number(row.get("seconds")) is not None else ""
        rows.append([_text(row.get("stage")), sentence, _text(row.get("outcome")), took, moment(row.get("at"))])
    return table(["stage", "what it says", "outcome", "took", "ended"], rows, css_class="stacked")


def decision(folder: Folder) -> tuple[str, str]:
    """Return what the night came to, as the word of its outcome and a sentence; "unfinished" before it has ended."""
    last: Mapping[str, Any] = {}
    for row in folder.rows(LEARN_FILE):
        last = row
    sentence = _text(last.get("sentence"))
    if last.get("outcome"):
        return _text(last["outcome"]), sentence
    stage = _text(last.get("stage")) or "none"
    return "unfinished", f"Its last stage that ended is {stage}: {sentence}. make learn goes on from there."


def gained(folder: Folder) -> Markup:
    """Return what the checkpoint of the verdict gained over what was live, else each one's; empty before that."""
    parts = list[str]()
    for evaluation in (one for one in folder.inside if one.kind == EVALUATION):
        released = evaluation.json("release.json")
        chosen = released.get("checkpoint")
        for row in mappings(released.get("releases")):
            if chosen is not None and row.get("checkpoint") != chosen:
                continue
            gains = (rule for rule in mappings(row.get("rules")) if rule.get("kind") == "gain")
            parts += [f"checkpoint-{row.get('checkpoint')}: {_text(gain.get('sentence'))}" for gain in gains]
    return bullets(parts)


def audit_verdicts(folder: Folder) -> str:
    """Return the verdicts of an audit, one for each model and template; empty without one."""
    return "; ".join(_text(row.get("verdict")) for row in mappings(folder.json("audit.json").get("candidates")))


def audit(folder: Folder) -> Markup:
    """Return the verdict of an audit with its reasons, for each model and template; empty without one."""
    parts = []
    for row in mappings(folder.json("audit.json").get("candidates")):
        verdict = Markup("<p class='verdict'>{}, template {}: {}</p>").format(
            _text(row.get("model")), _text(row.get("template")), _text(row.get("verdict"))
        )
        changes = [
            f"Change: {_text(change.get('setting'))} ({_text(change.get('why'))})"
            for change in mappings(row.get("changes"))
        ]
        parts.append(verdict + bullets([*map(_text, listing(row.get("reasons"))), *changes]))
    return joined(parts)


def _text(value: Any) -> str:
    """Return a value of the journal as text; long lists as the number of their entries."""
    if isinstance(value, list):
        short = all(isinstance(item, str) for item in value) and sum(map(len, value)) < 600
        return ", ".join(value) if short else f"{len(value)} entries"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if number(value) is not None:
        return shown(value)
    return cut("" if value is None else str(value), 600)
