"""Writes the reference of the settings from their declarations: `python -m docs.settings`.

`settings.md` has what several jobs share; `settings/` has a page for each kind of settings, with the defaults of its
jobs. A test compares the files with `pages()`.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jobs
from sdpo.runtime.launch import Job
from sdpo.settings import CommonSettings, JobSettings, LaunchSettings, Setting, as_text, settings_of
from sdpo.settings.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
SHARED = (CommonSettings, JobSettings, LaunchSettings)

_INTRODUCTION = """\
# Settings

Every setting is an environment variable, a Make variable and a flag: `LR=1e-6`, `make train-online-tldr LR=1e-6`,
`--lr 1e-6`. The first of these that has a value is used: flag, Make variable, environment, what `TINY=1` sets, `.env`
(see `.env.example`), `RECIPE`, the job's default, the declared default. Unknown flags, Make variables and names in
`.env` are refused, with the nearest known name. `DRY_RUN=1` prints every value and where it comes from.

Secrets are taken from the environment or `.env` only. Without `WANDB_API_KEY`, or while wandb does not respond,
tracking is offline; `WANDB_MODE` is respected. `OMP_NUM_THREADS` is the number of threads of a job on a CPU; if it is
not set, as many as cores are free.
"""


def all_jobs() -> list[Job]:
    """Return the jobs of all modules in `jobs`, by name."""
    modules = (importlib.import_module(f"jobs.{module.name}") for module in pkgutil.iter_modules(jobs.__path__))
    return sorted((module.JOB for module in modules if hasattr(module, "JOB")), key=lambda job: job.name)


def pages() -> dict[Path, str]:
    """Return the text of each page by its path below `docs/reference`."""
    by_kind: dict[type[CommonSettings], list[Job]] = {}
    for job in all_jobs():
        by_kind.setdefault(job.settings, []).append(job)
    kinds = sorted(by_kind, key=lambda kind: by_kind[kind][0].name)
    texts = {Path("settings.md"): _overview({kind: by_kind[kind] for kind in kinds})}
    for kind in kinds:
        texts[Path("settings") / f"{_slug(kind)}.md"] = _page(kind, by_kind[kind])
    return texts


def _overview(by_kind: Mapping[type[CommonSettings], list[Job]]) -> str:
    lines = [_INTRODUCTION, "## By job", "", "| job | settings | what it does |", "|---|---|---|"]
    rows = [(job.name, _slug(kind), job.summary) for kind, own in by_kind.items() for job in own]
    lines += [f"| `{name}` | [{slug}](settings/{slug}.md) | {_cell(summary)} |" for name, slug, summary in sorted(rows)]
    for kind in SHARED:
        own = {name: declared for name, declared in settings_of(kind).items() if declared.group == _group(kind)}
        lines += ["", f"## {_heading(_group(kind))}", "", *_table(own.values(), [])]
    lines += ["", "## Recipes", ""]
    lines += [
        "`RECIPE` sets these in training and in the audit, as far as a job has them: offline training has no "
        "`CONTENT_WEIGHT` and `ITERATIONS`, and the audit the contrast alone. A setting that is given takes "
        "precedence.",
        "",
    ]
    for name, values in RECIPES.items():
        shown = ", ".join(f"`{key.upper()}={as_text(value)}`" for key, value in values.items())
        lines.append(f"- `{name}`: {shown or 'the defaults'}")
    toctree = ["```{toctree}", ":hidden:", "", *(f"settings/{_slug(kind)}" for kind in by_kind), "```"]
    return "\n".join([*lines, "", *toctree, ""])


def _page(kind: type[CommonSettings], own: list[Job]) -> str:
    """Return the page of one kind of settings: a table for each group, without what many jobs share."""
    lines = [f"# {', '.join(job.name for job in own)}", ""]
    lines += [f"- `{job.name}`: {job.summary}" for job in own]
    groups: dict[str, list[Setting]] = {}
    for declared in settings_of(kind).values():
        groups.setdefault(declared.group, []).append(declared)
    shared = [_group(other) for other in SHARED]
    for group, settings in groups.items():
        if group not in shared:
            lines += ["", f"## {_heading(group)}", "", *_table(settings, own)]
    lines += ["", "## Settings that other jobs have too", ""]
    links = [f"[{_heading(name)}](../settings.md#{_anchor(_heading(name))})" for name in shared if name in groups]
    lines.append(" · ".join(links))
    changed = [item for name in shared for item in groups.get(name, []) if any(_differs(item, job) for job in own)]
    if changed:
        lines += ["", "With other defaults here:", "", *_table(changed, own)]
    return "\n".join([*lines, ""])


def _table(settings: Iterable[Setting], own: list[Job]) -> list[str]:
    settings = list(settings)
    with_tiny = any(item.name in job.tiny for item in settings for job in own)
    lines = [f"| setting | what it does | default |{' with `TINY=1` |' if with_tiny else ''} values |"]
    lines.append("|---|---|---|---|" + ("---|" if with_tiny else ""))
    for item in settings:
        names = ", ".join(f"`{name.upper()}`" for name in item.names)
        tiny = f" {_values(item, own, tiny=True)} |" if with_tiny else ""
        allowed = "from the environment or `.env` only" if item.secret else _cell(item.allowed)
        lines.append(f"| {names} | {_cell(item.help)} | {_values(item, own)} |{tiny} {allowed} |")
    return lines


def _values(item: Setting, own: list[Job], tiny: bool = False) -> str:
    """Return the default of a setting; where jobs differ, each job's."""
    if not own:
        return _shown(item.default)
    by_value: dict[str, list[str]] = {}
    for job in own:
        default = job.defaults.get(item.name, item.default)
        value = job.tiny.get(item.name) if tiny else default
        by_value.setdefault("" if tiny and item.name not in job.tiny else _shown(value), []).append(job.name)
    if len(by_value) == 1:
        return next(iter(by_value))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items() if value)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    text = as_text(value).replace(f"{ROOT}/", "")
    return f"`{text}`" if text else "–"


def _differs(item: Setting, job: Job) -> bool:
    return job.defaults.get(item.name, item.default) != item.default or item.name in job.tiny


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _group(kind: type[CommonSettings]) -> str:
    return (kind.__doc__ or "").strip()


def _heading(group: str) -> str:
    return group.partition("\n")[0].rstrip(".")


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def _slug(kind: type[CommonSettings]) -> str:
    """Return the name of a kind's page: OnlineSettings is `online`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__.removesuffix("Settings")).lower()


def main() -> None:
    """Write all pages, and remove those of settings that are gone."""
    texts = pages()
    for path in (FOLDER / "settings").glob("*.md"):
        if path.relative_to(FOLDER) not in texts:
            path.unlink()
    for path, text in texts.items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
