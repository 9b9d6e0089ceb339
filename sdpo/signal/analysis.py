"""The signal analysis: plots what an unrelated and a relevant follow-up do to each token of an answer.

Importing this module is cheap; torch, transformers and matplotlib are imported when the work starts.
"""

from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.runtime.commands import command
from sdpo.runtime.ending import say
from sdpo.settings.inputs import check_model, read_template
from sdpo.signal.cases import CASES_FILE, Case, read_cases
from sdpo.signal.colours import limit_of
from sdpo.signal.run_folder import check_run, open_run

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import AnalysisSettings
    from sdpo.signal.loaded_model import LoadedModel
    from sdpo.text.hindsight import HindsightTemplate

SIGNALS, PAGE = "sdpo_signals.json", "signal.html"
KINDS = ("unrelated", "followup")
_CONTEXT_NAMES = {
    "bare": "without a follow-up",
    "unrelated": "with the unrelated follow-up",
    "followup": "with the relevant follow-up",
}


def check(settings: "AnalysisSettings", job: "Job") -> None:
    """Check everything that can be checked without loading a model. Raises SdpoError on the first problem."""
    read_cases(settings.cases_json or CASES_FILE)
    read_template(settings.hindsight_template, settings.hindsight_file)
    check_model(settings, "model", settings.model)
    check_run(settings)


def run(settings: "AnalysisSettings", job: "Job") -> None:
    """Sample an answer to each case, score it with and without follow-up, and write the plots and the page."""
    from sdpo.signal.heatmap import draw_case, draw_heatmaps
    from sdpo.signal.loaded_model import LoadedModel
    from sdpo.signal.relevance import compare_signals
    from sdpo.signal.signal_page import write_signal_page

    cases = read_cases(settings.cases_json or CASES_FILE)[: settings.n_cases]
    template = read_template(settings.hindsight_template, settings.hindsight_file)
    folder = open_run(settings)
    print(f"{len(cases)} cases, loading {settings.model}", flush=True)
    subject = LoadedModel.load(settings.model, settings.precision, settings.bs)
    rows = measure(subject, cases, template, settings)
    limit = limit_of(value for row in rows for kind in KINDS for value in row["signal"][kind])
    summary = summarize(rows)
    relevance = compare_signals(*([row["signal"][kind] for row in rows] for kind in KINDS))
    words = relevance.as_dict(settings.hindsight_template)
    result = {
        "model": settings.model,
        "template": vars(template),
        "unit": "nats per token",
        "scale": {"limit": limit, "centre": 0.0},
        "summary": summary,
        "relevance": words,
        "cases": rows,
    }
    folder.write_json(SIGNALS, result)
    with progress.task("drawing the figures"):
        draw_heatmaps(folder.path, rows, limit)
    for number, row in enumerate(progress.each(rows, "drawing the cases", "figures"), start=1):
        draw_case(folder.path / f"case{number}_tokens.png", row, limit)
    page = write_signal_page(folder.path / PAGE, result)
    folder.write_json("summary.json", {**summary, "relevance": words, "finished": True})
    said = "\n".join(filter(None, (words["sentence"], words["advice"])))
    print(f"\n{table(rows)}\n", flush=True)
    then = command("audit", model=settings.model, tiny=settings.tiny)
    files = {"page": page, "signals": folder.path / SIGNALS}
    say(said, files, then, "checks whether training can work; your own data as DATA=...")


def measure(
    subject: "LoadedModel", cases: list[Case], template: "HindsightTemplate", settings: "AnalysisSettings"
) -> list[dict[str, Any]]:
    """Return each case with its answer and, for each token, its signal, log-probabilities and alternatives.

    Log-probabilities and signal are in nats. Raises RecordError for a case that is too long for the model.
    """
    from sdpo.signal.loaded_model import signal_of

    answers = _answers(subject, cases, settings)
    completions = [subject.completion(*answer) for answer in answers]
    contexts = {
        "bare": [subject.context(case.messages) for case in cases],
        "unrelated": [subject.context(case.messages, case.unrelated_followup, template) for case in cases],
        "followup": [subject.context(case.messages, case.feedback_followup, template) for case in cases],
    }
    for context_rows in contexts.values():
        _refuse_too_long(subject, cases, context_rows, completions)
    logps = {
        name: subject.logps(context_rows, completions, f"scoring {_CONTEXT_NAMES[name]}")
        for name, context_rows in contexts.items()
    }
    rows: list[dict[str, Any]] = []
    answered = list(zip(cases, answers, completions, strict=True))
    for index, (case, (text, finished), ids) in enumerate(progress.each(answered, "the most likely tokens", "cases")):
        case_logps = {name: values[index] for name, values in logps.items()}
        rows.append(
            {
                **vars(case),
                "completion": text,
                "finished": finished,
                "token_ids": ids,
                "tokens": subject.pieces(ids),
                "logps": case_logps,
                "signal": {kind: signal_of(case_logps[kind], case_logps["bare"]) for kind in KINDS},
                "alternatives": {
                    name: subject.alternatives(context_rows[index], ids, settings.alternatives)
                    for name, context_rows in contexts.items()
                },
            }
        )
    return rows


def _answers(subject: "LoadedModel", cases: list[Case], settings: "AnalysisSettings") -> list[tuple[str, bool]]:
    """Return (completion, finished) for each case: its own completion, or a sampled one if it has none.

    `finished` is whether the model ended the answer itself.
    """
    without_completion = [case for case in cases if not case.completion]
    sampled = iter(
        subject.answer(
            [subject.context(case.messages) for case in without_completion],
            settings.max_completion_tokens,
            settings.temperature,
            settings.seed,
        )
        if without_completion
        else ()
    )
    return [(case.completion, True) if case.completion else next(sampled) for case in cases]


def _refuse_too_long(
    subject: "LoadedModel", cases: list[Case], contexts: list[list[int]], completions: list[list[int]]
) -> None:
    from sdpo.errors import RecordError

    for case, context, completion in zip(cases, contexts, completions, strict=True):
        if len(context) + len(completion) > subject.max_length:
            raise RecordError(
                f"case {case.id!r} has {len(context) + len(completion)} tokens including its follow-up and answer; "
                f"{subject.name} takes at most {subject.max_length}. Shorten the case or lower MAX_COMPLETION_TOKENS."
            )


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean |signal| per token over all tokens of all cases, by follow-up and by tag, in nats."""

    def mean(kind: str, tag: str | None = None) -> float:
        sizes = [abs(value) for row in rows if tag in (None, row["tag"]) for value in row["signal"][kind]]
        return sum(sizes) / len(sizes)

    tags = sorted({row["tag"] for row in rows})
    unrelated, relevant = mean("unrelated"), mean("followup")
    return {
        "cases": len(rows),
        "mean_size": {"unrelated": unrelated, "followup": relevant},
        "mean_size_followup_by_tag": {tag: mean("followup", tag) for tag in tags},
        "unrelated_over_followup": unrelated / relevant if relevant else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line per case: mean |signal| of both follow-ups, and the token with the largest relevant signal."""
    from sdpo.runtime.glyphs import figure_text
    from sdpo.signal.loaded_model import size_of

    lines = [f"{'case':28}  {'tokens':>6}  {'unrelated':>9}  {'relevant':>9}  largest signal", "-" * 78]
    for row in rows:
        signal = row["signal"]["followup"]
        peak = max(range(len(signal)), key=lambda index: abs(signal[index]))
        token = figure_text(row["tokens"][peak], spaces=True)[:16] or "…"
        lines.append(
            f"{row['id'][:28]:28}  {len(signal):6}  {size_of(row['signal']['unrelated']):9.4f}  "
            f"{size_of(signal):9.4f}  {token} {signal[peak]:+.2f}"
        )
    sizes = summarize(rows)["mean_size"]
    lines.append(f"mean |signal| per token: unrelated {sizes['unrelated']:.4f}, relevant {sizes['followup']:.4f} nats")
    return "\n".join(lines)
