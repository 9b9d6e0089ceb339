"""The results of an evaluation: a table on the terminal, eval.json, eval.csv, release.json, the figure, the page."""

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from sdpo import settings as settings_module
from sdpo.evaluate import judge_truth, release
from sdpo.evaluate.benchmark_table import benchmark_table
from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.condition_report import as_json, condition_table
from sdpo.evaluate.evidence import finite
from sdpo.evaluate.run_folders import beside
from sdpo.evaluate.trained_run import TrainedRun
from sdpo.evaluate.win_rates import BASELINE, WinRate
from sdpo.runtime.columns import side_by_side, spread
from sdpo.runtime.commands import command, given_to_repeat
from sdpo.runtime.ending import say
from sdpo.runtime.files import replace_file
from sdpo.runtime.provenance import provenance
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import EvalSettings

# eval.json is last because it records the settings of the others: it is written last and moved first.
FILES = ("pairs.html", "winrate.png", "eval.csv", "release.json", "eval.json")
REPORT = "report.html"  # the launcher writes it at the end; until then it may be another job's

# Settings that do not affect the results.
_MAY_CHANGE = {"output_dir", "scratch", "run_id", "dry_run", "tiny", "world_size", "accelerate_config", "concurrency"}
_MAY_CHANGE |= {"judge_timeout", "max_cost", "price_file", "judge_batch_size", "judge_url", "run_dir", "data_path"}
_MAY_CHANGE |= {"judge_truth"}  # the labelled pairs are reported beside the verdicts
_MAY_CHANGE |= {"fail_on_keep"}


def archive_earlier_results(folder: RunDirectory, settings: EvalSettings, files: Sequence[str] = FILES) -> None:
    """Move the results of an evaluation with other settings to earlier/, so that results are never mixed.

    `files` are those of this kind of evaluation; the last one records its settings and, of several, its runs.
    """
    written = folder.read_json(files[-1])
    if written is None:
        for name in files:  # writing was interrupted, so the settings of these files are unknown
            (folder.path / name).unlink(missing_ok=True)
        return
    # What an evaluation of an earlier version has no value for was not there to be set: it counts as not set.
    defaults = {name: item.default for name, item in settings_module.settings_of(type(settings)).items()}
    same = all(written["settings"].get(name, defaults[name]) == value for name, value in _identity(settings).items())
    runs = [str(path.resolve()) for path in settings.run_dirs]
    if same and [row["run"] for row in written.get("runs", [])] in ([], runs):
        return
    earlier = folder.path / "earlier" / written["started"].replace(":", "-")
    number = 1
    while earlier.exists():
        number += 1
        earlier = earlier.with_name(f"{written['started'].replace(':', '-')}-{number}")
    earlier.mkdir(parents=True)
    for name in (*reversed(files), REPORT):
        if (folder.path / name).exists():
            (folder.path / name).replace(earlier / name)
    print(f"moved the results of an evaluation with other settings to {earlier}", flush=True)


def write(folder: RunDirectory, settings: EvalSettings, run: TrainedRun, comparison: Comparison) -> None:
    """Print the table, write the result files and print their paths."""
    from sdpo.evaluate.pairs_page import write_pairs
    from sdpo.evaluate.win_rate_figure import draw_win_rates

    title = f"{run.path.resolve().name}: checkpoints against {settings.baseline}"
    print(f"\n{title}, {len(comparison.prompts)} prompts\n\n{table(comparison)}", flush=True)
    write_pairs(folder.path / "pairs.html", title, comparison)
    draw_win_rates(folder.path / "winrate.png", title, comparison.rows, comparison.judge_warnings)
    replace_file(folder.path / "eval.csv", _csv(comparison.rows).encode())
    if comparison.release is not None:
        print(release.text(comparison.release), flush=True)
        release.write(folder, comparison.release, settings)
    how = {"settings": _identity(settings), "given": given_to_repeat(settings), **provenance()}
    folder.write_json("eval.json", {**how, **finite(_summary(run, comparison))})
    for name in FILES:
        print(f"  {folder.path / name}", flush=True)
    _say_what_came_of_it(folder, settings, run, comparison)


def _say_what_came_of_it(folder: RunDirectory, settings: EvalSettings, run: TrainedRun, comparison: Comparison) -> None:
    """Print answers of the best checkpoint beside the baseline's, how often it wins, and the next command."""
    chosen = comparison.release.chosen if comparison.release else None
    rows = [row for row in comparison.rows if row.win_rate is not None]
    if chosen is not None:  # nothing is said of another one, which was not released
        rows = [row for row in rows if row.checkpoint == chosen.checkpoint]
    best = max(rows, key=lambda row: row.win_rate or 0.0, default=None)
    report = command("report", run_dir=shlex.join([str(run.path), str(beside(run.path, folder.path))]))
    then, why = report, "one page about the run and its evaluation"
    if best is not None:
        name = f"checkpoint-{best.checkpoint}"
        sentence = f"{name} wins {best.wins} of {best.wins + best.losses} decided pairs (judge {best.judge})"
    elif chosen is not None:
        name = f"checkpoint-{chosen.checkpoint}"
        sentence = f"No answer of {name} is judged better or worse than the baseline's"
    else:
        if all(row.same == row.prompts for row in comparison.rows):
            return say("No checkpoint differs from the baseline in any answer.", then=then, why=why)
        return say("No answer is judged better or worse than the baseline's.", then=then, why=why)
    texts = [comparison.answers[one] for one in (BASELINE, name)]
    pairs = [(prompt.text, old.text, new.text) for prompt, old, new in zip(comparison.prompts, *texts, strict=True)]
    different = [pair for pair in pairs if pair[1].strip() != pair[2].strip()]
    if different:
        print(f"\n{side_by_side(spread(different, 2), (BASELINE, name))}\n", flush=True)
    if comparison.release is not None:
        sentence += f"; verdict: {comparison.release.verdict}"
    folder_of_best = run.path / name
    if chosen is not None and not (folder_of_best / "adapter_config.json").exists():
        program = Path(sys.executable).with_name("transformers")
        program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
        then = f"{program} serve --port 8000 --reasoning off"  # loads each model when it is asked for
        talk = {"gateway_url": "http://127.0.0.1:8000/v1", "served_name": folder_of_best, "base_name": run.model}
        why = f"serves it and the model before, for {command('chat', **talk)}"
    say(f"{sentence}.", {"picture": folder.path / "winrate.png"}, then, why)


def table(comparison: Comparison) -> str:
    """Return one table per judge, then benchmarks, condition of the models, agreement of the judges and warnings."""
    parts = []
    for judge in dict.fromkeys(row.judge for row in comparison.rows):
        parts.append(f"judge {judge}\n" + _table([row for row in comparison.rows if row.judge == judge]))
    if comparison.benchmarks:
        parts.append(benchmark_table(comparison.benchmarks))
    if comparison.condition:
        parts.append("condition\n" + condition_table(comparison.condition))
    parts += [f"condition: {note}" for note in comparison.condition_notes]
    if comparison.agreement:
        parts.append("\n".join(_agreement_line(pair) for pair in comparison.agreement))
    if comparison.judge_truth:
        parts.append("\n".join(map(judge_truth.line, comparison.judge_truth)))
    if comparison.warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in comparison.warnings))
    return "\n\n".join(parts) + "\n"


_COLUMNS = (
    "step", "win rate", "s.e.", "95 % Wilson", "95 % bootstrap", "wins", "losses", "ties", "unread.",
    "coverage", "chars", "base", "equal length",
)  # fmt: skip


def _table(rows: Sequence[WinRate]) -> str:
    lines = [_COLUMNS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    texts = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    texts.insert(1, "-" * len(texts[0]))
    return "\n".join(texts)


def _cells(row: WinRate) -> tuple[str, ...]:
    controlled = _number(row.controlled_rate)
    if row.controlled_low is not None:
        controlled += f" {_interval(row.controlled_low, row.controlled_high)}"
    return (
        str(row.checkpoint),
        _number(row.win_rate),
        _number(row.standard_error),
        _interval(row.wilson_low, row.wilson_high),
        _interval(row.bootstrap_low, row.bootstrap_high),
        *map(str, (row.wins, row.losses, row.ties, row.unreadable)),
        _number(row.coverage, 2),
        _number(row.length, 1),
        _number(row.baseline_length, 1),
        controlled,
    )


def _agreement_line(pair: dict) -> str:
    one, other = pair["judges"]
    line = f"{one} and {other}: {pair['pairs']} pairs judged by both"
    if pair["agreement"] is None:
        return line
    return f"{line}, the same outcome in {pair['agreement']:.3f}, Cohen's κ {_number(pair['kappa'])}"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"[{low:.3f}, {high:.3f}]"


def _csv(rows: Sequence[WinRate]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [item.name for item in fields(WinRate)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _summary(run: TrainedRun, comparison: Comparison) -> dict:
    return {
        "run": str(run.path.resolve()),
        "persona": comparison.persona,
        "prompts": {"answered": len(comparison.prompts), "too_long": comparison.too_long},
        "weights": dict(comparison.weights),
        "rows": [asdict(row) for row in comparison.rows],
        "agreement": list(comparison.agreement),
        "benchmarks": [asdict(change) for change in comparison.benchmarks],
        "benchmark_scores": dict(comparison.benchmark_scores),
        "judge_truth": [asdict(truth) for truth in comparison.judge_truth],
        "warnings": list(comparison.warnings),
        "condition": {name: as_json(condition) for name, condition in comparison.condition.items()},
        "condition_notes": list(comparison.condition_notes),
        # Answers generated by this evaluation; the others were stored by an earlier one.
        "generated": dict(comparison.generated),
    }


def _identity(settings: EvalSettings) -> dict:
    """Return the settings that affect the results: two evaluations with the same ones have the same results."""
    return {name: value for name, value in settings_module.redacted(settings).items() if name not in _MAY_CHANGE}
