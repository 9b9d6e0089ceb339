"""The page: the sections of every folder in a fixed order, and what is missing said beside them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from sdpo.report import evaluation, learning, training
from sdpo.report.command import command, exact, job_of, settings_table, typed
from sdpo.report.curves import Metrics, charts, read_metrics
from sdpo.report.folder import EVALUATION, FILE, LEARNING, TRAINING, Folder, mapping
from sdpo.report.html import NONE, bullets, code, facts, folded, joined, moment, table
from sdpo.report.overview import overview
from sdpo.report.samples import samples
from sdpo.runtime.page import write_page
from sdpo.settings.recorded import under_present_names
from sdpo.signal.cells import CELL_STYLE

_STYLE = (
    # The checkbox of a legend shows the values of its section without a script.
    CELL_STYLE.replace(".values .", "section:has(> .legend :checked) .")
    + """
nav td:last-child { min-width: 14rem; }
a { color: var(--blue); }
a:focus-visible, summary:focus-visible, pre:focus-visible, input:focus-visible { outline: 2px solid var(--ink);
  outline-offset: 2px; }
.folder { border-top: 3px solid var(--line); margin-top: 2rem; padding-top: .5rem; }
.state { font-weight: bold; padding: .1rem .5rem; border: 2px solid; border-radius: .3rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(10rem, 100%), 1fr)); gap: .3rem 1rem; }
.facts div { border-bottom: 1px solid var(--line); } .facts dt { color: var(--quiet); font-size: .85rem; }
.facts dd { margin: 0; }
.missing { color: var(--orange); }
.verdict { font-weight: bold; border-left: 4px solid var(--blue); padding-left: .6rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .85rem; } figure svg { width: 100%; }
svg text { font: 10px system-ui, sans-serif; fill: var(--quiet); text-anchor: start; }
svg text.middle { text-anchor: middle; } svg text.end { text-anchor: end; }
.grid { stroke: var(--line); fill: none; } .limit { stroke: var(--orange); stroke-dasharray: 5 3; fill: none; }
.line { fill: none; stroke: var(--c); stroke-width: 1.6; } .band { fill: var(--c); opacity: .18; }
.dot { fill: var(--c); } .key { border-bottom: 2px solid var(--c); margin-right: .6rem; }
.k0 { --c: var(--blue); } .k1 { --c: var(--orange); stroke-dasharray: 6 2; }
.k2 { --c: #3a8a3a; stroke-dasharray: 2 2; } .k3 { --c: #a050a0; stroke-dasharray: 8 3 2 3; }
.k4 { --c: #80808f; } .k5 { --c: #b08a00; stroke-dasharray: 4 4; }
td.number { text-align: right; white-space: nowrap; } caption { text-align: left; color: var(--quiet); }
td { min-width: 4rem; } td .text { width: 18rem; max-width: 60vw; white-space: pre-wrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--panel); padding: .6rem; margin: .3rem 0; }
details { margin: .4rem 0; } summary { cursor: pointer; padding: .2rem 0; }
@media (max-width: 40rem) {
  table { font-size: .85rem; overflow-wrap: anywhere; } th, td { padding: .15rem .3rem; } td { min-width: 0; }
  td.number { white-space: normal; } nav td:last-child { min-width: 0; } td .text { width: auto; max-width: none; }
  .stacked thead { display: none; } .stacked tr { display: block; border-bottom: 1px solid var(--line); }
  .stacked td { display: block; border: 0; padding: 0; } .stacked td:first-child { font-weight: bold; }
}
.sample { border-left: 3px solid var(--line); padding-left: .7rem; margin: .8rem 0; }
"""
)
_INEXACT = (
    "The folder does not say which settings were given: these differ from the declared defaults, and a job's own "
    "defaults may differ too. All of its settings are below."
)
_PICTURES = ("training.png", "winrate.png", "forgetting.png", "audit.png")
_PAGES = ("pairs.html", "signal.html", "audit.html")


def write(path: Path, folders: Sequence[Folder]) -> Path:
    """Write the page of these folders and return its path."""
    parts = [part for folder in folders for part in (folder, *folder.inside)]
    runs = {part.path: read_metrics(part) for part in parts if part.kind == TRAINING}
    names = _names(parts)
    several = len([part for part in parts if part.kind == TRAINING]) > 1
    body = [
        Markup("<h1>{}</h1>").format(_title(parts)),
        Markup("<p class='quiet'>Written {:%Y-%m-%d %H:%M} UTC.</p>").format(datetime.now(UTC)),
    ]
    if len(parts) > 1:
        rows = overview(parts, names, runs)
        body.append(Markup("<nav aria-label='Parts of this page'>{}</nav>").format(rows))
    if several:
        shared = charts({names[part]: metrics for part, metrics in runs.items()})
        body.append(Markup("<section><h2>Curves of all runs</h2>{}</section>").format(shared))
    beside = path.resolve().parent
    body += [
        _folder(part, names[part.path], runs.get(part.path, Metrics()), index, beside)
        for index, part in enumerate(parts)
    ]
    return write_page(path, _title(parts), joined(body), _STYLE)


def _title(parts: Sequence[Folder]) -> str:
    if len({part.path for part in parts}) == 1 or parts[0].inside:
        return f"Report of the {parts[0].kind} {parts[0].name}"
    return f"Report of {len(parts)} folders"


def _names(parts: Sequence[Folder]) -> dict[Path, str]:
    """Return a name per folder, longer where two would have the same until they differ."""
    names = {part.path: part.name for part in parts}
    for length in range(3, max(len(path.parts) for path in names) + 1):
        uses = Counter(names.values())
        if len(uses) == len(names):
            break
        names = {path: name if uses[name] == 1 else str(Path(*path.parts[-length:])) for path, name in names.items()}
    return names


def _folder(folder: Folder, name: str, metrics: Metrics, index: int, beside: Path) -> Markup:
    sections: list[tuple[str, Callable[[], Markup]]] = [
        ("", lambda: _state(folder, metrics)),
        ("How to repeat it", lambda: _origin(folder)),
    ]
    if folder.kind == LEARNING:
        sections.append(("What was gained", lambda: learning.gained(folder)))
        sections.append(("What was decided", lambda: learning.journal(folder)))
    if folder.kind == TRAINING:
        sections += [
            ("Answers before and after", lambda: training.results(folder)),
            ("Curves", lambda: charts({"": metrics})),
            ("Guard", lambda: training.guard(folder)),
            ("Samples over training", lambda: samples(folder, f"values{index}")),
            ("The simulated user's trial", lambda: training.user_trial(folder)),
            ("Cost and time", lambda: training.cost(folder, metrics)),
        ]
    if folder.kind == EVALUATION:
        sections += [
            ("Release", lambda: evaluation.verdict_section(folder)),
            ("Win rates", lambda: evaluation.win_rates(folder)),
            ("Judges", lambda: evaluation.judges(folder)),
            ("", lambda: evaluation.benchmarks(folder)),
            ("Condition", lambda: evaluation.condition(folder)),
            ("Forgetting", lambda: evaluation.forgetting(folder)),
            ("Cost", lambda: training.api_cost(folder)),
        ]
    sections += [("Audit", lambda: learning.audit(folder)), ("Files", lambda: _files(folder, beside))]
    built = joined(_section(folder, title, build) for title, build in sections)
    missing = bullets([*folder.missing, *folder.notes], "missing")
    return Markup("<section class='folder' id='part{}'><h2>{}: {}</h2>{}{}</section>").format(
        index, folder.kind.capitalize(), name, missing, built
    )


def _section(folder: Folder, title: str, build: Callable[[], Markup]) -> Markup:
    """Return a section with its title; empty if there is nothing in it.

    Files of an older version or of another program may hold what no section expects: that is said, and the page stands.
    """
    try:
        content = build()
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        folder.note(f"a part ({title or 'the summary'}) cannot be shown: its files hold unexpected values ({error!r})")
        return Markup("")
    if not content:
        return Markup("")
    return Markup("<section>{}{}</section>").format(Markup("<h3>{}</h3>").format(title) if title else "", content)


def _state(folder: Folder, metrics: Metrics) -> Markup:
    if folder.kind == TRAINING:
        word, sentence = training.state(folder, metrics)
    elif folder.kind == EVALUATION:
        sentence = evaluation.verdict(folder)
        done = folder.has("eval.json") or folder.has("forgetting.json")
        word = "finished" if done else "unfinished"
    elif folder.kind == LEARNING:
        word, sentence = learning.decision(folder)
    else:
        word = "finished" if folder.json("summary.json").get("finished") else "unfinished"
        sentence = ""
    badge = Markup("<span class='state'>{}</span> ").format(word) if word else Markup("")
    return Markup("<p>{}{}</p>").format(badge, sentence)


def _origin(folder: Folder) -> Markup:
    """Return the command that repeats the run, and what it was made with."""
    written = _written(folder)
    if not written:
        return Markup("")
    settings = under_present_names(mapping(written.get("settings")))
    versions = mapping(written.get("versions"))
    repeat, line = command(folder, written), typed(written)
    found = facts(
        [
            ("job", job_of(folder, written)),
            ("model", settings.get("model") or settings.get("baseline") or NONE),
            ("style", settings.get("style")),
            ("seed", settings.get("seed")),
            ("started", moment(written.get("started"))),
            ("commit", written.get("commit")),
            ("Python", written.get("python")),
            ("checkpoints", ", ".join(training.checkpoints(folder)) if folder.kind == TRAINING else ""),
        ]
    )
    rows = settings_table(written)
    packages = [[name, str(version)] for name, version in versions.items() if version]
    return joined(
        [
            code(repeat) or Markup("<p class='missing'>The folder does not say which job made it.</p>"),
            Markup("") if exact(written) or not repeat else Markup("<p class='quiet'>{}</p>").format(_INEXACT),
            Markup("<p class='quiet'>It was started as: {}</p>").format(line) if line else Markup(""),
            found,
            folded("All settings", table(["setting", "value"], rows)) if rows else Markup(""),
            folded("Versions", table(["package", "version"], packages)) if packages else Markup(""),
        ]
    )


def _written(folder: Folder) -> Mapping[str, Any]:
    for name in ("eval.json", "forgetting.json", "run.json") if folder.kind == EVALUATION else ("run.json",):
        if folder.has(name):
            return folder.json(name)
    return {}


def _files(folder: Folder, beside: Path) -> Markup:
    """Return links to the folder's own pages and pictures; they are not part of this page and load only on a click."""
    names = [name for name in (*_PAGES, *_PICTURES, "README.md") if folder.has(name)]
    if folder.kind == EVALUATION and folder.path == beside and (folder.path.parent / FILE).is_file():
        names.append(f"../{FILE}")  # of the run
    try:
        relative = folder.path.relative_to(beside)
    except ValueError:
        return bullets(str(folder.path / name) for name in names)
    items = joined(
        Markup("<li><a href='{}'>{}</a></li>").format(quote((relative / name).as_posix()), name) for name in names
    )
    return Markup("<ul>{}</ul>").format(items) if names else Markup("")
