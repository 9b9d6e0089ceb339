"""What an audit found: a table, audit.png and audit.html."""

import base64
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sdpo.runtime.figures import save_figure
from sdpo.runtime.page import write_page
from sdpo.signal.verdict import CHANGES, GO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

BLUE, GREEN, ORANGE, GREY = "#0072b2", "#009e73", "#d55e00", "#999999"  # told apart without colour vision too
SHOWN = {
    "true": "true follow-up",
    "shuffled": "of another conversation",
    "unrelated": "unrelated",
    "template": "template alone",
}
PLACES = {"end": "end token", "first": "first two tokens", "formatting": "formatting", "rest": "the rest"}

_STYLE = """
.verdict { font-weight: bold; padding: .1rem .5rem; border: 2px solid; border-radius: .3rem; white-space: nowrap; }
.go { color: var(--blue); } .stop { color: var(--orange); } .changes { color: var(--ink); }
td.number { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; margin: 1rem 0; } .wide img { max-width: none; width: 78rem; }
pre { white-space: pre-wrap; background: var(--panel); padding: .5rem; }
"""


def names_of(candidates: Sequence[Row]) -> list[str]:
    """Return a short name of each candidate: the model where there are several, and the template where there are."""
    several_models = len({row["model"] for row in candidates}) > 1
    several_templates = len({row["template"] for row in candidates}) > 1
    found = []
    for row in candidates:
        parts = [_last(row["model"])] if several_models or not several_templates else []
        found.append(", ".join([*parts, *([_last(row["template"])] if several_templates else [])]))
    return found


def table(candidates: Sequence[Row]) -> str:
    """Return a line a candidate, and the reasons and changes of each under it."""
    names = names_of(candidates)
    width = min(max(map(len, names)), 40)
    head = f"{'':{width}}  {'|signal|':>8}  {'/unrelated':>10}  {'/shuffled':>9}  {'template':>8}  {'preferred':>9}"
    head += "  verdict"
    lines = [head, "-" * (len(head) + 8)]
    for name, row in zip(names, candidates, strict=True):
        found = row["figures"]
        share = found["preference"]["share"]
        preferred = "–" if share is None else f"{share:.2f}"
        cause = f" ({row['cause']})" if row["cause"] else ""
        lines.append(
            f"{name[:width]:{width}}  {found['telling']['size']:8.4f}  {found['relevance']['value']:10.2f}  "
            f"{found['specificity']['value']:9.2f}  {found['template_share']['value']:8.2f}  {preferred:>9}  "
            f"{row['verdict']}{cause}"
        )
    for name, row in zip(names, candidates, strict=True):
        lines += ["", f"{name}: {row['verdict']}"]
        words = [*row["reasons"], *(f"Change: {change['setting']} ({change['why']})" for change in row["changes"])]
        lines += [textwrap.fill(word, 118, initial_indent="  ", subsequent_indent="    ") for word in words]
    return "\n".join(lines)


# The picture


def draw_audit(path: Path, candidates: Sequence[Row]) -> Path:
    """Draw each candidate's signal by what was shown, by kind of follow-up and by place; return the path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ["\n".join(textwrap.wrap(name, 26)) for name in names_of(candidates)]
    figure, grid = pyplot.subplots(
        len(candidates), 3, figsize=(13, 0.6 + 2.5 * len(candidates)), squeeze=False, layout="constrained"
    )
    for row, (name, candidate) in enumerate(zip(names, candidates, strict=True)):
        found = candidate["figures"]
        _draw_sizes(grid[row][0], found)
        _draw_kinds(grid[row][1], found)
        _draw_places(grid[row][2], found)
        grid[row][0].set_ylabel(f"{name}\n{candidate['verdict']}", fontsize=9)
    for axes, title in zip(grid[0], ("what was shown in hindsight", "kind of follow-up", "where it lies"), strict=True):
        axes.set_title(title, fontsize=10)
    return save_figure(figure, path)


def _draw_sizes(axes: "Axes", found: Row) -> None:
    values = [found["size"][name]["value"] for name in SHOWN]
    # Rounding alone can put a bound on the wrong side of the value.
    around = [
        [max(0.0, value - found["size"][name]["interval"][0]) for name, value in zip(SHOWN, values, strict=True)],
        [max(0.0, found["size"][name]["interval"][1] - value) for name, value in zip(SHOWN, values, strict=True)],
    ]
    axes.barh(list(SHOWN.values()), values, xerr=around, color=[BLUE, GREY, GREY, ORANGE], capsize=3)
    _finish(axes, "mean |signal| per token, nats")


def _draw_kinds(axes: "Axes", found: Row) -> None:
    kinds = {f"{kind} ({row['rows']})": row for kind, row in found["kinds"].items()}
    axes.barh(list(kinds), [row["size"] or 0.0 for row in kinds.values()], color=BLUE)
    axes.axvline(found["carrying"]["threshold"], color=ORANGE, linestyle="--")
    _finish(axes, "mean |signal|, nats; dashed: 95 of 100 unrelated are below")


def _draw_places(axes: "Axes", found: Row) -> None:
    shares = [found["places"][name] for name in PLACES]
    bars = axes.barh(list(PLACES.values()), shares, color=GREEN)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], fontsize=8, padding=2)
    axes.set_xlim(0, 1.15)
    _finish(axes, "share of all |signal|")


def _finish(axes: "Axes", label: str) -> None:
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# The page


def write_audit_page(path: Path, result: Row, picture: Path) -> Path:
    """Write audit.html as a whole or not at all, and return its path."""
    candidates = result["candidates"]
    names = names_of(candidates)
    image = base64.b64encode(picture.read_bytes()).decode()
    parts = [
        Markup("<h1>Can SDPO work here?</h1><p>{} of {} interactions of {}. Nothing was trained.</p>").format(
            result["sampled"], result["interactions"], result["data"]
        ),
        _overview(names, candidates),
        Markup("<div class='wide'><img alt='The figures, drawn' src='data:image/png;base64,{}'></div>").format(image),
        *(_candidate(name, row) for name, row in zip(names, candidates, strict=True)),
        Markup("<h2>Thresholds</h2><p>Fixed beforehand, for the lower ends of 95 % intervals where there are any.</p>"),
        _rows(["threshold", "value"], [[name, f"{value:g}"] for name, value in result["thresholds"].items()]),
        Markup("<h2>Templates</h2>"),
        *(Markup("<h3>{}</h3><pre>{}</pre>").format(name, text) for name, text in result["templates"].items()),
    ]
    return write_page(path, "Can SDPO work here?", Markup("").join(parts), _STYLE)


def _overview(names: Sequence[str], candidates: Sequence[Row]) -> Markup:
    rows = []
    for name, row in zip(names, candidates, strict=True):
        found = row["figures"]
        rows.append(
            [
                name,
                _badge(row),
                f"{found['telling']['size']:.4f}",
                _with_interval(found["relevance"]),
                _with_interval(found["specificity"]),
                _with_interval(found["template_share"]),
                _with_interval({"value": found["preference"]["share"], "interval": found["preference"]["interval"]}),
            ]
        )
    head = ["", "verdict", "mean |signal|, nats", "over unrelated", "over shuffled", "template alone over true"]
    return _rows([*head, "preferred with hindsight"], rows)


def _candidate(name: str, row: Row) -> Markup:
    found = row["figures"]
    kinds = [
        [kind, str(one["rows"]), _number(one["size"]), "–" if one["carrying"] is None else f"{one['carrying']:.0%}"]
        for kind, one in found["kinds"].items()
    ]
    preferred = found["preference"]
    parts = [
        Markup("<h2>{} {}</h2><ul>").format(name, _badge(row)),
        *(Markup("<li>{}</li>").format(reason) for reason in row["reasons"]),
        *(Markup("<li>Change: <b>{setting}</b>, {why}</li>").format(**change) for change in row["changes"]),
        Markup("</ul><p>Model {}, template {}. Judged on {} rows ({}). Pairs: {} wins, {} losses, {} ties.</p>").format(
            row["model"],
            row["template"],
            found["telling"]["rows"],
            found["telling"]["of"],
            *(preferred[outcome] for outcome in ("wins", "losses", "ties")),
        ),
        _rows(
            ["shown in hindsight", "mean |signal| per token, nats"],
            [[words, _with_interval(found["size"][name], 4)] for name, words in SHOWN.items()],
        ),
        _rows(["kind of follow-up", "interactions", "mean |signal|", "carry signal"], kinds),
        _rows(
            ["where", "share of |signal|"], [[PLACES[name], f"{share:.0%}"] for name, share in found["places"].items()]
        ),
    ]
    if "peaks" in found:
        parts.append(
            Markup("<p>The largest signal is on the token that the complaint is about in {right} of {of}.</p>").format(
                **found["peaks"]
            )
        )
    return Markup("").join(parts)


def _badge(row: Row) -> Markup:
    kind = {GO: "go", CHANGES: "changes"}.get(row["verdict"], "stop")
    cause = f": {row['cause']}" if row["cause"] else ""
    return Markup("<span class='verdict {}'>{}{}</span>").format(kind, row["verdict"], cause)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    made = [Markup("<tr>{}</tr>").format(Markup("").join(Markup("<th>{}</th>").format(word) for word in head))]
    for row in rows:
        cells = [Markup("<td>{}</td>").format(row[0])]
        cells += [Markup("<td class='number'>{}</td>").format(word) for word in row[1:]]
        made.append(Markup("<tr>{}</tr>").format(Markup("").join(cells)))
    return Markup("<table>{}</table>").format(Markup("").join(made))


def _with_interval(figure: Row, digits: int = 2) -> str:
    if figure["value"] is None:
        return "–"
    low, high = figure["interval"]
    return f"{figure['value']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]
