"""The audit: whether SDPO can work with a model, a hindsight template and data, judged without training.

Importing this module is cheap; torch and transformers are imported when the work starts.
"""

import random
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.english.checkers import checker_of
from sdpo.errors import EXIT_STOP, RecordError, SettingError, nearest
from sdpo.llm import check_claude, is_loopback, price_for
from sdpo.llm.health import check_health, noted_if_dry
from sdpo.runtime.ending import say
from sdpo.settings.inputs import check_contrast, check_model, made_with, read_template
from sdpo.settings.training import RULE
from sdpo.signal.run_folder import check_run, open_run
from sdpo.signal.verdict import SHIPPED, STOP, THRESHOLDS, compare, judge
from sdpo.text.hindsight import HindsightTemplate, template_named
from sdpo.text.prompts import HINDSIGHT_TEMPLATES
from sdpo.text.records import Interaction, read_interactions
from sdpo.tiny.oracle import check_style
from sdpo.users.styles import own_styles

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import AuditSettings
    from sdpo.signal.audit_sample import Sample
    from sdpo.signal.loaded_model import LoadedModel

RESULT, PAGE, PICTURE = "audit.json", "audit.html", "audit.png"


def check(settings: "AuditSettings", job: "Job") -> list[str]:
    """Check everything that can be checked without loading a model. Raises SdpoError on the first problem.

    A dry run also reads all of DATA; returns a line on what it holds.
    """
    for name in models(settings):
        check_model(settings, "model", name)
    templates(settings)
    _check_judge(settings)
    check_contrast(settings)
    found: list[str] = []
    if settings.dry_run:
        sample, total = _sample_interactions(settings, job)
        found = [f"{settings.data}: {total:,} interactions; {_sampled(sample)}"]
    else:
        # Only the first row; the run itself reads and checks the others before it loads a model.
        next(_interactions(settings, job))
    check_run(settings)
    return found


def models(settings: "AuditSettings") -> list[str]:
    """Return the names in MODEL, without duplicates."""
    return list(dict.fromkeys(_names("MODEL", settings.model)))


def templates(settings: "AuditSettings") -> dict[str, HindsightTemplate]:
    """Return name -> hindsight template: HINDSIGHT_TEMPLATE as the reference, and the others that the settings name.

    TEMPLATES names shipped templates and files; a file's text is shown at the place of HINDSIGHT_TEMPLATE. Raises
    SettingError for a name that is neither, and for a file that is no template.
    """
    found = {SHIPPED: read_template(settings.hindsight_template, None)}
    names = _names("TEMPLATES", settings.templates or "")
    for name in [str(settings.hindsight_file), *names] if settings.hindsight_file else names:
        if name in HINDSIGHT_TEMPLATES:
            found[name] = template_named(name)
            continue
        if not Path(name).exists():
            raise SettingError(
                f"TEMPLATES: {name} is neither a file nor one of {', '.join(HINDSIGHT_TEMPLATES)}."
                f"{nearest(name, HINDSIGHT_TEMPLATES)} Name one of them, or an existing file."
            )
        found[name] = read_template(settings.hindsight_template, Path(name))
    return found


def _names(setting: str, value: str) -> list[str]:
    """Return the space-separated names in a value, ~ expanded. Raises SettingError if a quote is not closed."""
    try:
        return [str(Path(name).expanduser()) if name.startswith("~/") else name for name in shlex.split(value)]
    except ValueError:
        raise SettingError(
            f"{setting}={value} has an unclosed quote. Put each name that contains spaces in quotes."
        ) from None


def _check_judge(settings: "AuditSettings") -> None:
    name = settings.judge_model
    if name == RULE:
        if settings.style is None:
            raise SettingError("JUDGE_MODEL=rule needs a STYLE to check. Set it, or name a model.")
        own = own_styles(settings.style_file).get(settings.style)
        if settings.tiny:
            check_style(settings.style, own)
        checker_of(settings.style, own)
        return
    if settings.style is not None:
        raise SettingError("STYLE is for JUDGE_MODEL=rule. Set that, or leave it out.")
    if name == "oracle" and not settings.tiny:
        raise SettingError("JUDGE_MODEL=oracle works in the tiny world only. Add TINY=1, or name a model.")
    if name is None or name == "oracle":
        return
    charges = name.startswith("claude-") if settings.judge_url is None else not is_loopback(settings.judge_url)
    price_for(name, settings.price_file, settings.max_cost, charges)
    if settings.judge_url is not None:
        key = settings.judge_api_key
        with noted_if_dry(settings.dry_run):
            check_health(settings.judge_url, name, setting="JUDGE_URL", model_setting="JUDGE_MODEL", api_key=key)
        return
    if not name.startswith("claude-"):
        if "/" not in name and not Path(name).exists():
            hint = nearest(name, ["oracle", RULE])
            raise SettingError(
                f"JUDGE_MODEL={name} is not a judge.{hint} Name a hub id, a folder, or a claude-… model."
            )
        return check_model(settings, "judge_model", name)
    check_claude(name, settings.anthropic_api_key, "JUDGE_MODEL", settings.dry_run)


def run(settings: "AuditSettings", job: "Job") -> int:
    """Audit every model with every template and write the verdicts.

    Returns the exit code: 6 (EXIT_STOP) if every verdict is stop, else 0.
    """
    from sdpo.signal.audit_ending import best_candidate, example_answers, next_command, sentence
    from sdpo.signal.audit_page import draw_audit, table, write_audit_page

    rows, total = _sample_interactions(settings, job)
    print(f"{total} interactions; {_sampled(rows)}", flush=True)
    folder = open_run(settings)
    candidates: list[dict[str, Any]] = []
    for name in models(settings):
        candidates += _audit_model(name, rows, settings, folder.path)
    verdicts = [(row["model"], row["template"], judge(row["figures"])) for row in candidates]
    compare(verdicts, str(settings.hindsight_file) if settings.hindsight_file else None)
    for row, (_, _, verdict) in zip(candidates, verdicts, strict=True):
        row |= verdict.as_dict()
    result = {
        "data": str(settings.data),
        "interactions": total,
        "sampled": len(rows),
        "templates": {name: vars(template) for name, template in templates(settings).items()},
        "thresholds": vars(THRESHOLDS),
        "candidates": candidates,
    }
    folder.write_json(RESULT, result)
    picture = draw_audit(folder.path / PICTURE, candidates)
    page = write_audit_page(folder.path / PAGE, result, picture)
    folder.write_json("summary.json", {"verdicts": [row["verdict"] for row in candidates], "finished": True})
    print(f"\n{table(candidates)}\n\n{example_answers(candidates)}\n", flush=True)
    best = best_candidate(candidates)
    say(sentence(best), {"page": page, "metrics": folder.path / RESULT}, *next_command(best, settings))
    return EXIT_STOP if all(row["verdict"] == STOP for row in candidates) else 0


def _interactions(settings: "AuditSettings", job: "Job") -> Iterator[Interaction]:
    """Return the interactions of DATA. Raises SettingError if it is not set; the job has a default for it."""
    if settings.data is None:
        raise SettingError("DATA is not set. Name a file of interactions, as a preparation job writes it.")
    return read_interactions(settings.data, made_with(settings, "data", job))


def _sample_interactions(settings: "AuditSettings", job: "Job") -> tuple[list[Interaction], int]:
    """Return AUDIT_N interactions of the data, the same for the same seed, and how many the data holds.

    Raises RecordError if the file is malformed or has too few conversations to swap follow-ups between them.
    """
    rng = random.Random(settings.seed)
    sample: list[Interaction] = []
    total = 0
    # One pass that holds no more rows in memory than it samples (Vitter's algorithm R).
    rows = progress.each(_interactions(settings, job), "reading DATA", "interactions")
    for total, row in enumerate(rows, start=1):
        if len(sample) < settings.audit_n:
            sample.append(row)
        elif (index := rng.randrange(total)) < settings.audit_n:
            sample[index] = row
    conversations = len({row.conversation_id for row in sample})
    if conversations < THRESHOLDS.rows:
        raise RecordError(
            f"DATA={settings.data} has interactions of {conversations} conversations; an audit needs at least "
            f"{THRESHOLDS.rows}. Name a larger file."
        )
    return sample, total


def _sampled(sample: Sequence[Interaction]) -> str:
    conversations = len({row.conversation_id for row in sample})
    return f"{len(sample)} of them sampled (AUDIT_N), from {conversations} conversations"


def _audit_model(name: str, rows: list[Interaction], settings: "AuditSettings", folder: Path) -> list[dict[str, Any]]:
    """Return one candidate per template: the model's metrics with it."""
    from sdpo.method.objective import Objective
    from sdpo.signal.annotator import Annotator
    from sdpo.signal.audit_measures import measure_candidate
    from sdpo.signal.audit_sample import Target, prepare
    from sdpo.signal.loaded_model import LoadedModel

    print(f"\nloading {name}", flush=True)
    subject, annotator = LoadedModel.load(name, settings.precision, settings.bs), Annotator(settings, folder)
    sample = _sample_for(subject, rows, annotator.unrelated(settings.seed), settings)
    options = (annotator, settings.max_completion_tokens, settings.temperature, settings.seed)
    prepared = prepare(subject, sample, *options)
    target = Target(Objective(**settings.contrast), settings.null_follow_up)
    candidates = []
    for label, template in templates(settings).items():
        print(f"{name}, template {label}", flush=True)
        metrics = measure_candidate(prepared, template, target, *options)
        candidates.append({"model": name, "template": label, "left_out": sample.left_out, "figures": metrics})
    return candidates


def _sample_for(
    subject: "LoadedModel", rows: list[Interaction], unrelated: list[str], settings: "AuditSettings"
) -> "Sample":
    """Return the sample without rows that are too long under any template; those are counted and printed.

    Raises SettingError if too few conversations remain.
    """
    from sdpo.signal.audit_sample import draw_sample

    shown = templates(settings).values()
    used, left_out = [], {"prompt too long": 0, "too long for the model": 0}
    # A row may get the follow-up of another row, so the longest follow-up of all must fit.
    longest = max((row.user_response for row in rows), key=len)
    for row in rows:
        prompt = len(subject.context(row.prompt))
        contexts = [
            len(subject.context(row.prompt, follow_up, template))
            for template in shown
            for follow_up in (row.user_response, longest)
        ]
        answer = max(len(subject.completion(row.completion)), settings.max_completion_tokens)
        if prompt > settings.max_prompt_tokens:
            left_out["prompt too long"] += 1
        elif max(contexts) + answer > subject.max_length:
            left_out["too long for the model"] += 1
        else:
            used.append(row)
    counts = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
    print(f"{len(used)} of {len(rows)} interactions used; left out: {counts}", flush=True)
    if len({row.conversation_id for row in used}) < THRESHOLDS.rows:
        raise SettingError(
            f"only {len(used)} of {len(rows)} sampled interactions have prompts of at most "
            f"{settings.max_prompt_tokens} tokens and fit into {subject.name}. Raise MAX_PROMPT_TOKENS or AUDIT_N."
        )
    return draw_sample(used, unrelated, settings.seed, left_out)
