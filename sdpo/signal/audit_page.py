"""The audit's report: a table for the terminal, audit.png and audit.html."""

import base64
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sdpo.runtime.figures import BLUE, GREEN, GREY, ORANGE, save_figure
from sdpo.runtime.page import write_page
from sdpo.signal.verdict import CHANGES, GO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

SHOWN = {
    "true": "true follow-up",
    "shuffled": "of another conversation",
    "unrelated": "unrelated follow-up",
    "template": "template alone",
}
PLACES = {"end": "end token", "first": "first two tokens", "formatting": "formatting", "rest": "other tokens"}
THRESHOLD_LABELS = {
    "relevance": "true over unrelated follow-up: ratio of mean |signal|, at least (else LEARN_FROM=complaints)",
    "size": "mean |signal| per token in nats, at least (else stop)",
    "preference": "share of decided pairs won by the answer with hindsight, above (else stop)",
    "surprise": "nats by which a token of these answers is less likely than the model's own, at most (else stop)",
    "out_of_reach": "share of them with a token that the model hardly ever says, at most (else DIRECTION=forward)",
    "template": "template alone over true follow-up: ratio of mean |signal|, below (else NULL_CONTRAST)",
    "template_alone": "the same ratio; from this value on the template is the cause of a stop",
    "carrying": "share of interactions that carry signal, at least (else MIN_SIGNAL)",
    "place": "share of |signal| on the first tokens or the end token, at most (else IGNORE_FIRST_K or GUARD)",
    "reading": "nats per token of logged answers over those of their frequencies, below (else the model is the cause)",
    "unknown": "share of the answers' tokens that the tokenizer does not know, at most (else the model is the cause)",
    "rows": "conversations, complaints or decided pairs needed for a conclusion, at least",
}

_STYLE = """
.verdict { font-weight: bold; padding: .1rem .5rem; border: 2px solid; border-radius: .3rem; white-space: nowrap; }
.go { color: var(--blue); } .stop { color: var(--orange); } .changes { color: var(--ink); }
td.number { text-align: right; white-space: nowrap; }
table { margin: .8rem 0 2rem; } th { color: var(--quiet); font-weight: 600; }
figure { margin: 1rem 0; }
pre { white-space: pre-wrap; background: var(--panel); padding: .5rem; }
@media (max-width: 48rem) {
  table, tbody, tr, td { display: block; } tr.head { display: none; }
  tr { padding: .4rem 0; border-top: 1px solid var(--line); } td { padding: 0; border: 0; }
  td.number { text-align: left; white-space: normal; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--quiet); }
}
"""


def names_of(candidates: Sequence[Row]) -> list[str]:
    """Return a short name per candidate: its model if there are several models, its template if several templates."""
    several_models = len({row["model"] for row in candidates}) > 1
    several_templates = len({row["template"] for row in candidates}) > 1
    names = []
    for row in candidates:
        parts = [_last_part(row["model"])] if several_models or not several_templates else []
        names.append(", ".join([*parts, *([_last_part(row["template"])] if several_templates else [])]))
    return names


def table(candidates: Sequence[Row]) -> str:
    """Return one line per candidate, followed by the reasons and changes of each."""
    names = names_of(candidates)
    width = min(max(map(len, names)), 40)
    head = f"{'':{width}}  {'|signal|':>8}  {'/unrelated':>10}  {'/shuffled':>9}  {'template':>8}  {'preferred':>9}"
    head += "  verdict"
    lines = [head, "-" * (len(head) + 8)]
    for name, row in zip(names, candidates, strict=True):
        metrics = row["figures"]
        share = metrics["preference"]["share"]
        preferred = "–" if share is None else f"{share:.2f}"
        cause = f" ({row['cause']})" if row["cause"] else ""
        lines.append(
            f"{name[:width]:{width}}  {metrics['telling']['size']:8.4f}  {metrics['relevance']['value']:10.2f}  "
            f"{metrics['specificity']['value']:9.2f}  {metrics['template_share']['value']:8.2f}  {preferred:>9}  "
            f"{row['verdict']}{cause}"
        )
    for name, row in zip(names, candidates, strict=True):
        lines += ["", f"{name}: {row['verdict']}"]
        texts = [*row["reasons"], *(f"Change: {change['setting']} ({change['why']})" for change in row["changes"])]
        lines += [textwrap.fill(text, 118, initial_indent="  ", subsequent_indent="    ") for text in texts]
    return "\n".join(lines)


# The figure


def draw_audit(path: Path, candidates: Sequence[Row]) -> Path:
    """Draw each candidate's signal by what was shown, by kind of follow-up and by position; return the path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ["\n".join(textwrap.wrap(name, 26)) for name in names_of(candidates)]
    figure, grid = pyplot.subplots(
        len(candidates), 3, figsize=(13, 0.6 + 2.5 * len(candidates)), squeeze=False, layout="constrained"
    )
    for row, (name, candidate) in enumerate(zip(names, candidates, strict=True)):
        metrics = candidate["figures"]
        _draw_sizes(grid[row][0], metrics)
        _draw_kinds(grid[row][1], metrics)
        _draw_places(grid[row][2], metrics)
        grid[row][0].set_ylabel(f"{name}\n{candidate['verdict']}", fontsize=9)
    for axes, title in zip(grid[0], ("shown in hindsight", "kind of follow-up", "position in the answer"), strict=True):
        axes.set_title(title, fontsize=10)
    return save_figure(figure, path)


def _draw_sizes(axes: "Axes", metrics: Row) -> None:
    values = [metrics["size"][name]["value"] for name in SHOWN]
    # Rounding can put a bound on the wrong side of the value.
    around = [
        [max(0.0, value - metrics["size"][name]["interval"][0]) for name, value in zip(SHOWN, values, strict=True)],
        [max(0.0, metrics["size"][name]["interval"][1] - value) for name, value in zip(SHOWN, values, strict=True)],
    ]
    axes.barh(list(SHOWN.values()), values, xerr=around, color=[BLUE, GREY, GREY, ORANGE], capsize=3)
    _finish(axes, "mean |signal| per token, nats")


def _draw_kinds(axes: "Axes", metrics: Row) -> None:
    kinds = {f"{kind} ({row['rows']})": row for kind, row in metrics["kinds"].items()}
    axes.barh(list(kinds), [row["size"] or 0.0 for row in kinds.values()], color=BLUE)
    axes.axvline(metrics["carrying"]["threshold"], color=ORANGE, linestyle="--")
    _finish(axes, "mean |signal|, nats; dashed: 95th percentile of unrelated")


def _draw_places(axes: "Axes", metrics: Row) -> None:
    shares = [metrics["places"][name] for name in PLACES]
    bars = axes.barh(list(PLACES.values()), shares, color=GREEN)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], fontsize=8, padding=2)
    axes.set_xlim(0, 1.15)
    _finish(axes, "share of |signal|")


def _finish(axes: "Axes", label: str) -> None:
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# The page


def write_audit_page(path: Path, result: Row, picture: Path) -> Path:
    """Write audit.html and return its path. The write is atomic: no incomplete page is left behind."""
    candidates = result["candidates"]
    names = names_of(candidates)
    image = base64.b64encode(picture.read_bytes()).decode()
    parts = [
        Markup(
            "<h1>Can SDPO work here?</h1><p>{} of {} interactions in {} were sampled. Nothing was trained. "
            "Ranges in parentheses are 95 % intervals.</p>"
        ).format(result["sampled"], result["interactions"], result["data"]),
        _overview(names, candidates),
        Markup("<figure><img alt='The metrics as bar charts' src='data:image/png;base64,{}'></figure>").format(image),
        *(_candidate(name, row) for name, row in zip(names, candidates, strict=True)),
        Markup(
            "<h2>Thresholds</h2><p>They were fixed beforehand. Those for the true over the unrelated follow-up and for "
            "the pairs won apply to the lower end of the 95 % interval.</p>"
        ),
        _rows(
            ["threshold", "value"],
            [[THRESHOLD_LABELS[name], f"{value:g}"] for name, value in result["thresholds"].items()],
        ),
        Markup("<h2>Templates</h2>"),
        *(
            Markup("<h3>{}</h3><p>Shown in this place: {place}.</p><pre>{text}</pre>").format(name, **template)
            for name, template in result["templates"].items()
        ),
    ]
    return write_page(path, "Can SDPO work here?", Markup("").join(parts), _STYLE)


def _overview(names: Sequence[str], candidates: Sequence[Row]) -> Markup:
    rows = []
    for name, row in zip(names, candidates, strict=True):
        metrics = row["figures"]
        rows.append(
            [
                name,
                _badge(row),
                f"{metrics['telling']['size']:.4f}",
                _with_interval(metrics["relevance"]),
                _with_interval(metrics["specificity"]),
                _with_interval(metrics["template_share"]),
                _with_interval(
                    {"value": metrics["preference"]["share"], "interval": metrics["preference"]["interval"]}
                ),
            ]
        )
    head = ["", "verdict", "mean |signal|, nats", "true / unrelated", "true / shuffled", "template alone / true"]
    return _rows([*head, "preferred with hindsight"], rows)


def _candidate(name: str, row: Row) -> Markup:
    metrics = row["figures"]
    kinds = [
        [kind, str(of["rows"]), _number(of["size"]), "–" if of["carrying"] is None else f"{of['carrying']:.0%}"]
        for kind, of in metrics["kinds"].items()
    ]
    preference = metrics["preference"]
    parts = [
        Markup("<h2>{} {}</h2><ul>").format(name, _badge(row)),
        *(Markup("<li>{}</li>").format(reason) for reason in row["reasons"]),
        *(Markup("<li>Change: <b>{setting}</b> ({why})</li>").format(**change) for change in row["changes"]),
        Markup(
            "</ul><p>Model {}, template {}. Verdict from {} interactions (kind of follow-up: {}). "
            "Answers with hindsight against answers without: {} wins, {} losses, {} ties.</p>"
        ).format(
            row["model"],
            row["template"],
            metrics["telling"]["rows"],
            metrics["telling"]["of"],
            *(preference[outcome] for outcome in ("wins", "losses", "ties")),
        ),
        _rows(
            ["shown in hindsight", "mean |signal| per token, nats"],
            [[label, _with_interval(metrics["size"][name], 4)] for name, label in SHOWN.items()],
        ),
        _rows(["kind of follow-up", "interactions", "mean |signal|, nats", "carry signal"], kinds),
        _rows(
            ["position in the answer", "share of |signal|"],
            [[PLACES[name], f"{share:.0%}"] for name, share in metrics["places"].items()],
        ),
    ]
    if examples := preference["examples"]:
        parts.append(
            Markup("<p>Some of these answers; with hindsight is what training aims at.</p>{}").format(
                _rows(
                    ["prompt", "follow-up", "without", "with hindsight"], [list(row.values()) for row in examples], ""
                )
            )
        )
    if "peaks" in metrics:
        parts.append(
            Markup(
                "<p>In {right} of {of} complaints the largest signal is on the token that the complaint is about.</p>"
            ).format(**metrics["peaks"])
        )
    return Markup("").join(parts)


def _badge(row: Row) -> Markup:
    css_class = {GO: "go", CHANGES: "changes"}.get(row["verdict"], "stop")
    cause = f": {row['cause']}" if row["cause"] else ""
    return Markup("<span class='verdict {}'>{}{}</span>").format(css_class, row["verdict"], cause)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "number") -> Markup:
    """Return a table. On a narrow screen each row is a block of its own, whose cells have the column's name."""
    names = Markup("").join(Markup("<th>{}</th>").format(text) for text in head)
    lines = [Markup("<tr class='head'>{}</tr>").format(names)]
    for row in rows:
        cells = [
            Markup("<td><b>{}</b></td>" if kind else "<td data-label='{label}'>{}</td>").format(row[0], label=head[0])
        ]
        cells += [
            Markup("<td class='{}' data-label='{}'>{}</td>").format(kind, name, text)
            for name, text in zip(head[1:], row[1:], strict=True)
        ]
        lines.append(Markup("<tr>{}</tr>").format(Markup("").join(cells)))
    return Markup("<table>{}</table>").format(Markup("").join(lines))


def _with_interval(figure: Row, digits: int = 2) -> str:
    if figure["value"] is None:
        return "–"
    low, high = figure["interval"]
    return f"{figure['value']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
