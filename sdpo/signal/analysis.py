"""The signal of some cases, drawn: what an unrelated and a relevant follow-up do to each token of an answer.

Importing this is cheap; torch and its company are imported when the work begins.
"""

from typing import TYPE_CHECKING, Any

from sdpo.settings.inputs import check_model_path, read_template
from sdpo.signal.cases import CASES_FILE, Case, read_cases
from sdpo.signal.colours import limit_of
from sdpo.signal.run_folder import check_run, open_run

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import AnalysisSettings
    from sdpo.signal.measure import LoadedModel

SIGNALS, PAGE = "sdpo_signals.json", "signal.html"
KINDS = ("unrelated", "followup")


def check(settings: "AnalysisSettings", job: "Job") -> None:
    """Check whatever can be checked without loading a model. Raises SdpoError on the first fault."""
    read_cases(settings.cases_json or CASES_FILE)
    read_template(settings.hindsight_file)
    check_model_path("model", settings.model)
    check_run(settings)


def run(settings: "AnalysisSettings", job: "Job") -> None:
    """Answer, score and draw the cases."""
    from sdpo.signal.heatmap import draw_case, draw_heatmaps
    from sdpo.signal.measure import LoadedModel
    from sdpo.signal.page import write_signal_page

    cases = read_cases(settings.cases_json or CASES_FILE)[: settings.n_cases]
    template = read_template(settings.hindsight_file)
    folder = open_run(settings)
    print(f"{len(cases)} cases, loading {settings.model}", flush=True)
    subject = LoadedModel.load(settings.model, settings.precision, settings.bs)
    rows = measure(subject, cases, template, settings)
    limit = limit_of(value for row in rows for kind in KINDS for value in row["signal"][kind])
    result = {
        "model": settings.model,
        "template": template,
        "unit": "nats per token",
        "scale": {"limit": limit, "centre": 0.0},
        "summary": summarize(rows),
        "cases": rows,
    }
    folder.write_json(SIGNALS, result)
    print("drawing", flush=True)
    draw_heatmaps(folder.path, rows, limit)
    for number, row in enumerate(rows, start=1):
        draw_case(folder.path / f"case{number}_tokens.png", row, limit)
    page = write_signal_page(folder.path / PAGE, result)
    folder.write_json("summary.json", {**result["summary"], "finished": True})
    print(f"\n{table(rows)}\n\npage: {page}\nsignals: {folder.path / SIGNALS}", flush=True)


def measure(
    subject: "LoadedModel", cases: list[Case], template: str, settings: "AnalysisSettings"
) -> list[dict[str, Any]]:
    """Return each case with its answer and, for each token, its signal, log-probabilities and alternatives.

    Raises RecordError for a case that is too long for the model.
    """
    from sdpo.signal.measure import say, signal_of

    answers = _answers(subject, cases, settings)
    completions = [subject.completion(*answer) for answer in answers]
    contexts = {
        "bare": [subject.context(case.messages) for case in cases],
        "unrelated": [subject.context(case.messages, case.unrelated_followup, template) for case in cases],
        "followup": [subject.context(case.messages, case.feedback_followup, template) for case in cases],
    }
    for asked in contexts.values():
        _refuse_too_long(subject, cases, asked, completions)
    logps = {name: subject.logps(asked, completions, say(f"scored, {name}")) for name, asked in contexts.items()}
    print("looking up the likeliest tokens", flush=True)
    rows = []
    for place, (case, (text, finished), ids) in enumerate(zip(cases, answers, completions, strict=True)):
        at = {name: values[place] for name, values in logps.items()}
        rows.append(
            {
                **vars(case),
                "completion": text,
                "finished": finished,
                "token_ids": ids,
                "tokens": subject.pieces(ids),
                "logps": at,
                "signal": {kind: signal_of(at[kind], at["bare"]) for kind in KINDS},
                "alternatives": {
                    name: subject.alternatives(asked[place], ids, settings.alternatives)
                    for name, asked in contexts.items()
                },
            }
        )
    return rows


def _answers(subject: "LoadedModel", cases: list[Case], settings: "AnalysisSettings") -> list[tuple[str, bool]]:
    """Return each case's own completion, or one sampled for it, and whether it ended by itself."""
    from sdpo.signal.measure import say

    asked = [case for case in cases if not case.completion]
    sampled = iter(
        subject.answer(
            [subject.context(case.messages) for case in asked],
            settings.max_completion_tokens,
            settings.temperature,
            settings.seed,
            say("answered"),
        )
        if asked
        else ()
    )
    return [(case.completion, True) if case.completion else next(sampled) for case in cases]


def _refuse_too_long(
    subject: "LoadedModel", cases: list[Case], contexts: list[list[int]], completions: list[list[int]]
) -> None:
    from sdpo.errors import RecordError

    for case, context, completion in zip(cases, contexts, completions, strict=True):
        if len(context) + len(completion) > subject.longest:
            raise RecordError(
                f"case {case.id!r} has {len(context) + len(completion)} tokens with its follow-up and answer, and "
                f"{subject.name} takes {subject.longest}. Shorten it, or lower MAX_COMPLETION_TOKENS."
            )


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean |signal| per token over all tokens of all cases, by follow-up and by tag, in nats."""

    def mean(kind: str, tag: str | None = None) -> float | None:
        sizes = [abs(value) for row in rows if tag in (None, row["tag"]) for value in row["signal"][kind]]
        return sum(sizes) / len(sizes) if sizes else None

    tags = sorted({row["tag"] for row in rows})
    unrelated, relevant = mean("unrelated"), mean("followup")
    return {
        "cases": len(rows),
        "mean_size": {"unrelated": unrelated, "followup": relevant},
        "mean_size_followup_by_tag": {tag: mean("followup", tag) for tag in tags},
        "unrelated_over_followup": unrelated / relevant if relevant else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line a case: the size of both signals and the token that the relevant one moves most."""
    from sdpo.signal.glyphs import figure_text
    from sdpo.signal.measure import size_of

    lines = [f"{'case':28}  {'tokens':>6}  {'unrelated':>9}  {'relevant':>9}  moved most", "-" * 78]
    for row in rows:
        signal = row["signal"]["followup"]
        peak = max(range(len(signal)), key=lambda place: abs(signal[place]))
        token = figure_text(row["tokens"][peak], spaces=True)[:16] or "…"
        lines.append(
            f"{row['id'][:28]:28}  {len(signal):6}  {size_of(row['signal']['unrelated']):9.4f}  "
            f"{size_of(signal):9.4f}  {token} {signal[peak]:+.2f}"
        )
    found = summarize(rows)
    sizes = found["mean_size"]
    lines.append(f"mean |signal| per token: unrelated {sizes['unrelated']:.4f}, relevant {sizes['followup']:.4f} nats")
    if found["unrelated_over_followup"] is not None:
        lines[-1] += f", ratio {found['unrelated_over_followup']:.3f}"
    return "\n".join(lines)
