"""The audit: whether SDPO can work with a model, a hindsight template and data, judged without training.

Importing this is cheap; torch and its company are imported when the work begins.
"""

import random
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.errors import RecordError, SettingError, nearest
from sdpo.llm import claude_url
from sdpo.settings.inputs import check_model_path, read_template
from sdpo.signal.run_folder import check_run, open_run
from sdpo.signal.verdict import SHIPPED, STOP, THRESHOLDS, compare, judge
from sdpo.text.records import Interaction, read_interactions

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import AuditSettings
    from sdpo.signal.audit_measures import Sample
    from sdpo.signal.measure import LoadedModel

EXIT_STOP = 6  # of a job whose every candidate is to stop, so that `make audit && make train-...` does not train
RESULT, PAGE, PICTURE = "audit.json", "audit.html", "audit.png"


def check(settings: "AuditSettings", job: "Job") -> None:
    """Check whatever can be checked without loading a model. Raises SdpoError on the first fault."""
    for name in models(settings):
        check_model_path("model", name)
    templates(settings)
    _check_judge(settings)
    # The first row only: the file is read whole, and checked, when the sample is drawn.
    next(iter(read_interactions(settings.data, f"make {job.data_target}")))
    check_run(settings)


def models(settings: "AuditSettings") -> list[str]:
    """Return the models that MODEL names."""
    return list(dict.fromkeys(_names("MODEL", settings.model)))


def templates(settings: "AuditSettings") -> dict[str, str]:
    """Return name -> hindsight template: the shipped one, against which others are held, and those of the settings."""
    paths = [settings.hindsight_file, *map(Path, _names("TEMPLATES", settings.templates or ""))]
    return {SHIPPED: read_template(None)} | {str(path): read_template(path) for path in paths if path is not None}


def _names(setting: str, value: str) -> list[str]:
    """Return the names in a value. Raises SettingError where a quote is not closed."""
    try:
        return shlex.split(value)
    except ValueError:
        raise SettingError(
            f"{setting}={value} has a quote that is not closed. Put each name with spaces in quotes."
        ) from None


def _check_judge(settings: "AuditSettings") -> None:
    name = settings.judge_model
    if name == "oracle" and not settings.tiny:
        raise SettingError("JUDGE_MODEL=oracle reads the tiny world only. Give TINY=1 with it, or name a model.")
    if name is None or name == "oracle" or settings.judge_url is not None:
        return
    if not name.startswith("claude-"):
        if "/" not in name and not Path(name).exists():
            hint = nearest(name, ["oracle"])
            raise SettingError(f"JUDGE_MODEL={name} is no judge.{hint} Name a hub id, a folder, or a claude-… model.")
        return check_model_path("judge_model", name)
    claude_url()
    if not settings.anthropic_api_key:
        raise SettingError(f"JUDGE_MODEL={name} needs ANTHROPIC_API_KEY. Put it into the environment or .env.")
    if find_spec("anthropic") is None:
        raise SettingError("the anthropic package is not installed. Install the locked packages (make setup).")


def run(settings: "AuditSettings", job: "Job") -> int:
    """Audit every model with every template, write the verdicts, and return 6 where all of them are to stop."""
    from sdpo.signal.audit_page import draw_audit, table, write_audit_page

    rows, seen = _sampled(settings, job)
    folder = open_run(settings)
    candidates: list[dict[str, Any]] = []
    for name in models(settings):
        candidates += _audit_model(name, rows, settings, folder.path)
    verdicts = [(row["model"], row["template"], judge(row["figures"])) for row in candidates]
    compare(verdicts)
    for row, (_, _, verdict) in zip(candidates, verdicts, strict=True):
        row |= verdict.as_dict()
    result = {
        "data": str(settings.data),
        "interactions": seen,
        "sampled": len(rows),
        "templates": templates(settings),
        "thresholds": vars(THRESHOLDS),
        "candidates": candidates,
    }
    folder.write_json(RESULT, result)
    picture = draw_audit(folder.path / PICTURE, candidates)
    page = write_audit_page(folder.path / PAGE, result, picture)
    folder.write_json("summary.json", {"verdicts": [row["verdict"] for row in candidates], "finished": True})
    print(f"\n{table(candidates)}\n\npage: {page}\nfigures: {folder.path / RESULT}", flush=True)
    return EXIT_STOP if all(row["verdict"] == STOP for row in candidates) else 0


def _sampled(settings: "AuditSettings", job: "Job") -> tuple[list[Interaction], int]:
    """Return AUDIT_N interactions of the data, the same for the same seed, and how many there are.

    Raises RecordError where the file is malformed, or has too few conversations to exchange follow-ups.
    """
    rng, kept, seen = random.Random(settings.seed), [], 0
    # One pass, and no more rows in memory than are kept (Vitter's algorithm R).
    for seen, row in enumerate(read_interactions(settings.data, f"make {job.data_target}"), start=1):
        if len(kept) < settings.audit_n:
            kept.append(row)
        elif (place := rng.randrange(seen)) < settings.audit_n:
            kept[place] = row
    conversations = len({row.conversation_id for row in kept})
    if conversations < THRESHOLDS.rows:
        raise RecordError(
            f"DATA={settings.data} has interactions of {conversations} conversations; an audit needs at least "
            f"{THRESHOLDS.rows}. Name a larger file."
        )
    print(f"{len(kept)} of {seen} interactions sampled, of {conversations} conversations", flush=True)
    return kept, seen


def _audit_model(name: str, rows: list[Interaction], settings: "AuditSettings", folder: Path) -> list[dict[str, Any]]:
    """Return a model's figures with each template."""
    from sdpo.signal.annotator import Annotator
    from sdpo.signal.audit_measures import figures, prepare
    from sdpo.signal.measure import LoadedModel

    print(f"\nloading {name}", flush=True)
    subject, world = LoadedModel.load(name, settings.precision, settings.bs), Annotator(settings, folder)
    sample = _fitting(subject, rows, world.unrelated(settings.seed), settings)
    ask = (world, settings.max_completion_tokens, settings.temperature, settings.seed)
    ready = prepare(subject, sample, *ask)
    found = []
    for label, template in templates(settings).items():
        print(f"{name}, template {label}", flush=True)
        measured = figures(ready, template, *ask)
        found.append({"model": name, "template": label, "left_out": sample.left_out, "figures": measured})
    return found


def _fitting(
    subject: "LoadedModel", rows: list[Interaction], unrelated: list[str], settings: "AuditSettings"
) -> "Sample":
    """Return the sample without rows that are too long under any template; said and counted."""
    from sdpo.signal.audit_measures import draw

    shown = templates(settings).values()
    kept, left_out = [], {"prompt too long": 0, "too long for the model": 0}
    # A follow-up of another row may be longer than a row's own, so room is kept for the longest of all.
    longest = max((row.user_response for row in rows), key=len)
    for row in rows:
        prompt = len(subject.context(row.prompt))
        contexts = [
            len(subject.context(row.prompt, said, one)) for one in shown for said in (row.user_response, longest)
        ]
        answer = max(len(subject.completion(row.completion)), settings.max_completion_tokens)
        if prompt > settings.max_prompt_tokens:
            left_out["prompt too long"] += 1
        elif max(contexts) + answer > subject.longest:
            left_out["too long for the model"] += 1
        else:
            kept.append(row)
    print(f"{len(kept)} of {len(rows)} interactions used; left out: {left_out}", flush=True)
    if len({row.conversation_id for row in kept}) < THRESHOLDS.rows:
        raise SettingError(
            f"only {len(kept)} of {len(rows)} sampled interactions have prompts of at most "
            f"{settings.max_prompt_tokens} tokens and fit into {subject.name}. Raise MAX_PROMPT_TOKENS or AUDIT_N."
        )
    return draw(kept, unrelated, settings.seed, left_out)
