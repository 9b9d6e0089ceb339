"""The study on real models: what the signal distinguishes, what the audit says of it, and what training changes.

The tables are in docs/real.md.

Each result is a line of STUDY_DIR/real.jsonl, so a study that was stopped goes on where it stopped. A training run is
the job itself in a process of its own, with a rule as the user, and goes on from its last checkpoint. Part `logs`
trains offline on a log of the model's own answers.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo import progress
from sdpo.errors import EXIT_STOP, SettingError, nearest
from sdpo.runtime.ending import say
from sdpo.runtime.run_directory import RunDirectory
from sdpo.study.real_calls import as_key, call, flags, is_bf16, items, variants
from sdpo.study.real_training import OFFLINE, ONLINE, train

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import RealStudySettings

RESULTS = "real.jsonl"
PARTS = ("signal", "audit", "training", "logs")
AUDIT = "audit"


def check(settings: "RealStudySettings", job: "Job") -> None:
    """Raise SettingError for an unknown part, template or style, two models of one name, or what is no setting."""
    from sdpo.english.styles import check_style
    from sdpo.text.prompts import HINDSIGHT_TEMPLATES

    for name, known in (("parts", PARTS), ("templates", HINDSIGHT_TEMPLATES)):
        for item in items(getattr(settings, name)):
            if item not in known:
                hint = nearest(item, known)
                raise SettingError(f"{name.upper()}={item} is unknown.{hint} Choose from {', '.join(known)}.")
    for style in items(settings.styles):
        check_style(style)
    names = [Path(model).name for model in dict.fromkeys(settings.model.split())]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingError(
            f"MODEL={settings.model}: two models are named {twice}, and results are kept by name. Rename one folder."
        )
    for variant in variants(settings):
        for word in shlex.split(variant):
            if "=" not in word:
                raise SettingError(f"VARIANTS: {word} is not a setting such as LR=1e-4.")


def run(settings: "RealStudySettings", job: "Job") -> int:
    """Get the results that are missing, write the tables of all, and return exit code 0."""
    from sdpo.study.real_tables import report

    settings.study_dir.mkdir(parents=True, exist_ok=True)
    directory, parts = RunDirectory(settings.study_dir), items(settings.parts)
    if "signal" in parts:
        for model in settings.model.split():
            _measure_signal(settings, directory, model)
    if "audit" in parts:
        for model in settings.model.split():
            _audit(settings, directory, model)
    for part, trains in (("training", ONLINE), ("logs", OFFLINE)):
        if part in parts:
            train(settings, directory, trains, RESULTS)
    table = settings.study_table
    RunDirectory(table.parent).write_text(table.name, report(directory.read_rows(RESULTS)))
    say(f"The parts {settings.parts} have all their results.", {"tables": table})
    return 0


def _measure_signal(settings: "RealStudySettings", directory: RunDirectory, name: str) -> None:
    """Measure the templates that have no result with this model yet."""
    short = Path(name).name
    done = {(row["model"], row["template"]) for row in directory.read_rows(RESULTS) if row["kind"] == "signal"}
    missing = [template for template in items(settings.templates) if (short, template) not in done]
    if not missing:
        return
    import torch

    from sdpo.models.policy import load_model
    from sdpo.study.real_signal import measure, sample_answers

    tokenizer, model = load_model(name, torch.bfloat16 if is_bf16(settings) else torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]
    answers = sample_answers(model, tokenizer, settings.signal_prompts, settings.seed)
    for template in missing:
        rows = [{"kind": "signal", "model": short, **row} for row in measure(model, tokenizer, answers, [template])]
        directory.append(RESULTS, rows)
        best = max(rows, key=lambda row: row["complaint_over_unrelated"][0])
        print(f"{short}, template {template}: complaint / unrelated at best {best['complaint_over_unrelated'][0]:.2f}")


def _audit(settings: "RealStudySettings", directory: RunDirectory, model: str) -> None:
    """Audit the styles and variants that have no verdict with this model yet, each in a process of its own."""
    from sdpo.study.real_audit import audit_values, read_verdict
    from sdpo.study.real_interactions import write_interactions

    name, folder = Path(model).name, settings.scratch / "audits"
    done = {row["key"] for row in directory.read_rows(RESULTS) if row["kind"] == "audit"}
    asked = [(style, variant) for style in items(settings.styles) for variant in variants(settings)]
    missing = [pair for pair in asked if as_key(" ".join((name, *pair))) not in done]
    print(f"{name}: {len(asked)} audits, {len(asked) - len(missing)} of them done", flush=True)
    unwritten = [style for style in items(settings.styles) if not (folder / f"{name}-{style}.jsonl").exists()]
    if missing and unwritten:
        folder.mkdir(parents=True, exist_ok=True)
        length = settings.max_completion_tokens
        write_interactions(folder, name, model, unwritten, settings.audit_n, length, is_bf16(settings))
    for style, variant in progress.each(missing, f"audits of {name}", "audits"):
        key = as_key(f"{name} {style} {variant}")
        values = audit_values(model, style, variant, folder / f"{name}-{style}.jsonl", folder / key)
        values |= {"AUDIT_N": settings.audit_n, "PRECISION": settings.precision}
        values |= {"MAX_COMPLETION_TOKENS": settings.max_completion_tokens}
        call(AUDIT, flags(values), folder / f"{key}.log", allowed=(0, EXIT_STOP))
        verdict = read_verdict(folder / key)
        names = {"key": key, "model": name, "style": style, "variant": variant}
        directory.append(RESULTS, [{"kind": "audit", **names, **verdict}])
        print(f"{key}: {verdict['verdict']}", flush=True)
