"""The sections of an evaluation: its verdict with every rule, the table, benchmarks, the condition, what it cost."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from markupsafe import Markup

from sdpo.evaluate import release
from sdpo.evaluate.benchmark_table import benchmark_section
from sdpo.evaluate.condition_report import COLUMNS, MEANING
from sdpo.evaluate.evidence import BenchmarkChange
from sdpo.evaluate.release_rules import MEANING as RULES_MEANING
from sdpo.evaluate.rule import Rule
from sdpo.report.folder import Folder, mapping, mappings, number
from sdpo.report.html import bullets, folded, interval, joined, shown, table

_RULES = ("rule", "figure", "interval", "limit", "outcome", "what it says")
_ROWS = (
    "step", "judge", "win rate", "95 % interval", "wins", "losses", "ties", "unreadable", "coverage", "characters",
    "of the baseline",
)  # fmt: skip


def verdict(folder: Folder) -> str:
    """Return the verdict in a sentence, empty if there is none."""
    return str(folder.json("release.json").get("sentence") or "")


def verdict_section(folder: Folder) -> Markup:
    """Return the verdict, and of every checkpoint the rules with their figures; empty without release.json."""
    written = folder.json("release.json")
    if not written:
        return Markup("")
    releases = mappings(written.get("releases"))
    opened = written.get("checkpoint") or (releases[-1].get("checkpoint") if releases else None)
    parts = [Markup("<p class='verdict'>Verdict: {}</p>").format(verdict(folder) or written.get("verdict", "unknown"))]
    for item in releases:
        rules = table(_RULES, [_rule(row) for row in mappings(item.get("rules"))])
        reasons = bullets(str(reason) for reason in item.get("reasons") or ())
        title = f"checkpoint-{item.get('checkpoint')}: {item.get('verdict')}"
        parts.append(folded(title, reasons + rules, opened=item.get("checkpoint") == opened))
    if releases:
        parts.append(Markup("<p class='quiet'>{}.</p>").format(". ".join(RULES_MEANING)))
    return joined(parts)


def _rule(row: Mapping[str, Any]) -> list[str]:
    known = {name: row.get(name) for name in ("name", "kind", "outcome", "sentence")}
    figures = {name: number(row.get(name)) for name in ("figure", "low", "high", "threshold")}
    rule = Rule(**{name: str(value) for name, value in known.items()}, **figures)  # type: ignore[arg-type]
    return [*release.cells(rule), rule.sentence]


def win_rates(folder: Folder) -> Markup:
    """Return the table of the evaluation, one row per checkpoint and judge, and its warnings; empty without rows."""
    written = folder.json("eval.json")
    rows = []
    for row in mappings(written.get("rows")):
        head = [str(row.get("checkpoint", "")), str(row.get("judge", ""))]
        rows.append(
            [
                *head,
                shown(row.get("win_rate")),
                interval(row.get("wilson_low"), row.get("wilson_high")),
                *(shown(row.get(name)) for name in ("wins", "losses", "ties", "unreadable")),
                *(shown(row.get(name), 2) for name in ("coverage", "length", "baseline_length")),
            ]
        )
    return table(_ROWS, rows) + bullets((str(text) for text in written.get("warnings") or ()), "missing")


def judges(folder: Folder) -> Markup:
    """Return how often each judge was right on the labelled pairs; empty if it was not tried."""
    rows = [
        [
            str(row.get("judge", "")),
            shown(row.get("pairs")),
            shown(row.get("agreement")),
            interval(row.get("low"), row.get("high")),
            shown(row.get("rule_agreement")),
        ]
        for row in mappings(folder.json("eval.json").get("judge_truth"))
    ]
    return table(["judge", "labelled pairs", "right", "95 % interval", "agrees with the rule"], rows)


def benchmarks(folder: Folder) -> Markup:
    """Return the benchmarks of the checkpoints beside the baseline's; empty if there are none."""
    names = {item.name for item in fields(BenchmarkChange)}
    rows = mappings(folder.json("eval.json").get("benchmarks"))
    changes = [BenchmarkChange(**{name: value for name, value in row.items() if name in names}) for row in rows]
    return benchmark_section(changes, level=3)


def condition(folder: Folder) -> Markup:
    """Return the condition of every model; empty if it was not measured."""
    written = folder.json("eval.json") or folder.json("forgetting.json")
    models = {name: mapping(row) for name, row in mapping(written.get("condition")).items()}
    columns = {
        label: (name, digits)
        for label, (name, digits) in COLUMNS.items()
        if any(number(row.get(name)) is not None for row in models.values())
    }
    rows = [
        [
            name,
            *(shown(row.get(figure), digits) for figure, digits in columns.values()),
            shown(row.get("adherence")),
            interval(row.get("adherence_low"), row.get("adherence_high")),
        ]
        for name, row in models.items()
    ]
    notes = [str(note) for note in written.get("condition_notes") or ()]
    if not rows:
        return bullets(notes)
    found = table(["model", *columns, "fits", "95 %"], rows)
    return found + Markup("<p class='quiet'>{}</p>").format(MEANING) + bullets(notes)


def forgetting(folder: Folder) -> Markup:
    """Return every taste after every run that was trained one after another; empty for another evaluation."""
    written = folder.json("forgetting.json")
    tastes = [str(taste) for taste in written.get("tastes") or ()]
    cells = {(cell.get("model"), cell.get("taste")): cell.get("value") for cell in mappings(written.get("cells"))}
    rows = [
        [str(model), *(shown(cells.get((model, taste))) for taste in tastes)] for model in written.get("models") or ()
    ]
    if not rows:
        return Markup("")
    mean = Markup("<p>Mean forgotten: {}.</p>").format(shown(written.get("mean_forgotten")))
    return table(["model after", *tastes], rows) + mean
