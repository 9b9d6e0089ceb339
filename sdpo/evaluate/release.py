"""The release of an evaluation: its verdict on the screen, in release.json, at the top of the page, as an exit code."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from markupsafe import Markup

from sdpo.errors import KEEP_EXIT_CODE
from sdpo.evaluate.evidence import finite
from sdpo.evaluate.gain_rules import GAIN_RULE
from sdpo.evaluate.release_rules import MEANING, Decision, Release
from sdpo.evaluate.rule import Rule
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import EvalSettings
from sdpo.settings.release import ReleaseSettings

FILE = "release.json"
_COLUMNS = ("rule", "figure", "interval", "limit", "")

_PAGE = Markup("""<section class="release"><h2>{sentence}</h2>
<details><summary>The rules of each checkpoint</summary>{tables}<p class="persona">{meaning}.</p></details></section>
""")
_TABLE = Markup("""<h3>checkpoint-{step}: {verdict}</h3>
<table><thead><tr><th>rule</th><th>figure</th><th>interval</th><th>limit</th><th></th><th>what it says</th></tr></thead>
<tbody>{rows}</tbody></table>
""")


def write(folder: RunDirectory, decision: Decision, settings: EvalSettings) -> None:
    """Write release.json: the verdict, the rules of each checkpoint with their figures, and the limits applied."""
    limits = {item.name: getattr(settings, item.name) for item in own_fields()}
    folder.write_json(
        FILE,
        {
            "verdict": decision.verdict,
            "checkpoint": None if decision.chosen is None else decision.chosen.checkpoint,
            "sentence": decision.sentence,
            "releases": finite([_release(release) for release in decision.releases]),
            "limits": limits,
        },
    )


def gain_of(written: dict[str, Any], step: int | None) -> str:
    """Return what a release.json says of a checkpoint's gain, without a full stop; "" if it says nothing."""
    rules = next((one["rules"] for one in written["releases"] if one["checkpoint"] == step), ())
    return next((rule["sentence"].rstrip(".") for rule in rules if rule["name"] == GAIN_RULE), "")


def own_fields() -> list[Any]:
    """Return the fields of the settings that the rules read."""
    return [item for item in fields(ReleaseSettings) if item.name in ReleaseSettings.__annotations__]


def exit_code(decision: Decision, settings: EvalSettings) -> int:
    """Return 0, or the exit code of an evaluation that keeps the model, and say how to get another."""
    if decision.chosen is not None or not settings.fail_on_keep:
        return 0
    print(f"exit code {KEEP_EXIT_CODE}: no checkpoint to release. FAIL_ON_KEEP=0 exits with 0 all the same", flush=True)
    return KEEP_EXIT_CODE


def text(decision: Decision) -> str:
    """Return the verdict in a sentence, after a table of rules: those of the chosen checkpoint, or of the last one."""
    if not decision.releases:
        return decision.sentence + "\n"
    shown = decision.chosen or decision.releases[-1]
    lines = [_COLUMNS, *(cells(rule) for rule in shown.rules)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * max(map(len, table)))
    reasons = [f"  {reason}" for reason in shown.reasons]
    lines_of_text = [
        f"release of checkpoint-{shown.checkpoint}",
        *table,
        *MEANING,
        "",
        f"verdict: {decision.sentence}",
        *reasons,
    ]
    return "\n".join(lines_of_text) + "\n"


def page(decision: Decision | None) -> Markup:
    """Return the verdict as the top of the page, the rules folded in; empty without a verdict."""
    if decision is None:
        return Markup("")
    tables = Markup("").join(
        _TABLE.format(step=release.checkpoint, verdict=release.verdict, rows=Markup("").join(map(_row, release.rules)))
        for release in decision.releases
    )
    return _PAGE.format(sentence=f"Verdict: {decision.sentence}", tables=tables, meaning=". ".join(MEANING))


def _row(rule: Rule) -> Markup:
    texts: Sequence[str] = [*cells(rule), rule.sentence]
    return Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(text) for text in texts))


def cells(rule: Rule) -> tuple[str, ...]:
    """Return a rule as a row of a table: name, figure, interval, limit, outcome."""
    interval = "" if rule.low is None or rule.high is None else f"{rule.low:.3f} to {rule.high:.3f}"
    # A failed warning keeps nothing: it is distinguished from the rules that do.
    result = "warning" if rule.kind == "warning" and rule.failed else rule.outcome
    return (rule.name, _number(rule.figure), interval, _number(rule.threshold), result)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _release(release: Release) -> dict[str, Any]:
    return {
        "checkpoint": release.checkpoint,
        "verdict": release.verdict,
        "reasons": release.reasons,
        "rules": [{name: _rounded(value) for name, value in asdict(rule).items()} for rule in release.rules],
    }


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
