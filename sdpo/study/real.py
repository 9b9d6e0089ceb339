"""The study on real models: what the signal distinguishes, what the audit says of it, and what training changes.

The tables are in docs/real.md.

Each result is a line of STUDY_DIR/real.jsonl, so a study that was stopped goes on where it stopped. A training run is
the job itself in a process of its own, with a rule as the user, and goes on from its last checkpoint.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.errors import EXIT_STOP, GuardStopped, RunError, SettingError, nearest
from sdpo.runtime.ending import say
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import as_text

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import RealStudySettings

RESULTS = "real.jsonl"
PARTS = ("signal", "audit", "training")
AUDIT, TRAIN, PREPARE = "audit", "train-online-helpsteer", "prep-english"
FIGURES = ("adherence", "validity", "mean_length", "fluency", "surprise", "topic", "leak", "distance")


@dataclass(frozen=True)
class TrainingSpec:
    """One training run; `variant` are settings as NAME=value words."""

    model: str
    style: str
    variant: str
    seed: int
    interactions: int

    @property
    def key(self) -> str:
        """A name of the run that is safe for a folder."""
        return _key(f"{Path(self.model).name} {self.style} {self.variant} {self.interactions} seed{self.seed}")


def _key(words: str) -> str:
    return "".join(char if char.isalnum() or char in ".-" else "_" for char in words)


def check(settings: "RealStudySettings", job: "Job") -> None:
    """Raise SettingError for an unknown part, template or style, or a variant that is not NAME=value words."""
    from sdpo.english.styles import check_style
    from sdpo.text.prompts import HINDSIGHT_TEMPLATES

    for name, known in (("parts", PARTS), ("templates", HINDSIGHT_TEMPLATES)):
        for item in _items(getattr(settings, name)):
            if item not in known:
                hint = nearest(item, known)
                raise SettingError(f"{name.upper()}={item} is unknown.{hint} Choose from {', '.join(known)}.")
    for style in _items(settings.styles):
        check_style(style)
    for variant in _variants(settings):
        for word in shlex.split(variant):
            if "=" not in word:
                raise SettingError(f"VARIANTS: {word} is not a setting such as LR=1e-4.")


def run(settings: "RealStudySettings", job: "Job") -> int:
    """Get the results that are missing, write the tables of all, and return exit code 0."""
    from sdpo.study.real_tables import report

    settings.study_dir.mkdir(parents=True, exist_ok=True)
    directory, parts = RunDirectory(settings.study_dir), _items(settings.parts)
    if "signal" in parts:
        for model in settings.model.split():
            _measure_signal(settings, directory, model)
    if "audit" in parts:
        for model in settings.model.split():
            _audit(settings, directory, model)
    if "training" in parts:
        _train(settings, directory)
    table = settings.study_table
    RunDirectory(table.parent).write_text(table.name, report(directory.read_rows(RESULTS)))
    say(f"The parts {settings.parts} have all their results.", {"tables": table})
    return 0


def _measure_signal(settings: "RealStudySettings", directory: RunDirectory, name: str) -> None:
    """Measure the templates that have no result with this model yet."""
    short = Path(name).name
    done = {(row["model"], row["template"]) for row in directory.read_rows(RESULTS) if row["kind"] == "signal"}
    missing = [template for template in _items(settings.templates) if (short, template) not in done]
    if not missing:
        return
    import torch

    from sdpo.models.policy import load_model
    from sdpo.study.real_signal import measure, sample_answers

    tokenizer, model = load_model(name, torch.bfloat16 if _is_bf16(settings) else torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]
    answers = sample_answers(model, tokenizer, settings.signal_prompts, settings.seed)
    for template in missing:
        rows = [{"kind": "signal", "model": short, **row} for row in measure(model, tokenizer, answers, [template])]
        directory.append(RESULTS, rows)
        best = max(rows, key=lambda row: row["complaint_over_unrelated"][0])
        print(f"{short}, template {template}: complaint / unrelated at best {best['complaint_over_unrelated'][0]:.2f}")


def _is_bf16(settings: "RealStudySettings") -> bool:
    import torch

    return settings.precision == "bf16" or (settings.precision == "auto" and torch.cuda.is_available())


def _audit(settings: "RealStudySettings", directory: RunDirectory, model: str) -> None:
    """Audit the styles and variants that have no verdict with this model yet, each in a process of its own."""
    from sdpo.study.real_audit import audit_values, read_verdict, write_interactions

    name, folder = Path(model).name, settings.scratch / "audits"
    done = {row["key"] for row in directory.read_rows(RESULTS) if row["kind"] == "audit"}
    asked = [(style, variant) for style in _items(settings.styles) for variant in _variants(settings)]
    missing = [pair for pair in asked if _key(" ".join((name, *pair))) not in done]
    print(f"{name}: {len(asked)} audits, {len(asked) - len(missing)} of them done", flush=True)
    unwritten = [style for style in _items(settings.styles) if not (folder / f"{name}-{style}.jsonl").exists()]
    if missing and unwritten:
        folder.mkdir(parents=True, exist_ok=True)
        length = settings.max_completion_tokens
        write_interactions(folder, name, model, unwritten, settings.audit_n, length, _is_bf16(settings))
    for style, variant in progress.each(missing, f"audits of {name}", "audits"):
        key = _key(f"{name} {style} {variant}")
        values = audit_values(model, style, variant, folder / f"{name}-{style}.jsonl", folder / key)
        values |= {"AUDIT_N": settings.audit_n, "PRECISION": settings.precision}
        values |= {"MAX_COMPLETION_TOKENS": settings.max_completion_tokens}
        _call(AUDIT, _flags(values), folder / f"{key}.log", allowed=(0, EXIT_STOP))
        verdict = read_verdict(folder / key)
        names = {"key": key, "model": name, "style": style, "variant": variant}
        directory.append(RESULTS, [{"kind": "audit", **names, **verdict}])
        print(f"{key}: {verdict['verdict']}", flush=True)


def _train(settings: "RealStudySettings", directory: RunDirectory) -> None:
    """Do the training runs that have no result yet."""
    prompts = settings.scratch / "english_prompts"
    if not prompts.exists():
        _call(PREPARE, ["--out-dir", str(prompts)], settings.scratch / "prep.log")
    specs = [
        TrainingSpec(model, style, variant, seed, settings.interactions)
        for model in settings.model.split()
        for variant in _variants(settings)
        for style in _items(settings.styles)
        for seed in range(settings.seeds)
    ]
    done = {row["key"] for row in directory.read_rows(RESULTS) if row["kind"] == "training"}
    missing = [spec for spec in specs if spec.key not in done]
    print(f"{len(specs)} training runs, {len(specs) - len(missing)} of them done", flush=True)
    with ThreadPoolExecutor(settings.parallel) as pool:
        running = {pool.submit(_train_one, settings, spec, prompts): spec for spec in missing}
        ended = progress.each(as_completed(running), "training runs", "runs", len(missing))
        for number, future in enumerate(ended, start=1):
            row = future.result()
            directory.append(RESULTS, [row])
            before, after = row["before"], row["after"]
            print(
                f"[{number}/{len(missing)}] {running[future].key}: adherence {before['adherence']:.2f} to "
                f"{after['adherence']:.2f}, fluency {before['fluency']:.2f} to {after['fluency']:.2f}, "
                f"guard {row['stopped'] or 'did not stop it'}",
                flush=True,
            )


def _train_one(settings: "RealStudySettings", spec: TrainingSpec, prompts: Path) -> dict[str, Any]:
    """Train in a process of its own and return the result's line."""
    given = dict(word.partition("=")[::2] for word in shlex.split(spec.variant))
    values = {
        "MODEL_NAME_OR_PATH": spec.model,
        "USER_MODEL_NAME_OR_PATH": "rule",
        "STYLE": spec.style,
        "DATA_PATH": prompts,
        "SEED": spec.seed,
        "TRAIN_N": spec.interactions,
        "BS": settings.bs,
        "GA": 1,
        "WORLD_SIZE": 1,
        "MAX_COMPLETION_TOKENS": settings.max_completion_tokens,
        "EVAL_N": settings.eval_n,
        "EVAL_BATCH_SIZE": 32,
        "PRECISION": settings.precision,
        "GRADIENT_CHECKPOINTING": 0,
        "SAVE_STEPS": 5,
        "SAVE_LIMIT": 1,
        "LOG_STEPS": 1,
        "SCRATCH": settings.scratch,
        "RUN_ID": spec.key,
        **given,
    }
    folder = settings.scratch / "sdpo-runs" / spec.key
    run = RunDirectory(folder)
    # A study that was stopped may have left a run that is finished, which trains no more.
    if not (run.read_json("summary.json") or {}).get("finished"):
        _call(TRAIN, _flags(values), settings.scratch / f"{spec.key}.log", allowed=(0, GuardStopped.exit_code))
    summary = run.read_json("summary.json") or {}
    metrics, guard = run.read_rows("metrics.jsonl"), run.read_rows("guard.jsonl")
    return {
        "kind": "training",
        "key": spec.key,
        "model": Path(spec.model).name,
        "style": spec.style,
        "variant": spec.variant,
        "seed": spec.seed,
        "device": (run.read_json("run.json") or {}).get("device"),
        "interactions": metrics[-1]["interactions"],
        **{when: _figures(summary[when]) for when in ("before", "shown", "after")},
        "curve": [[row["interactions"], row["adherence"], round(row["entropy"], 3)] for row in metrics],
        "surprise": [round(row["measures"].get("surprise", 0.0), 3) for row in guard],
        "stopped": summary.get("stopped_by_guard"),
        "seconds": summary["seconds"],
    }


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures.get(name) for name in FIGURES} | {"axes": figures["axes"]}


def _flags(values: dict[str, Any]) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name.lower().replace('_', '-')}", as_text(value))]


def _call(name: str, flags: list[str], log: Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a job on one core with its output in a file. Raises RunError with the last line if it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-m", f"jobs.{name.replace('-', '_')}", *flags],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    if done.returncode not in allowed:
        lines = log.read_text("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        raise RunError(f"a run of the study failed, see {log}: {last}")


def _variants(settings: "RealStudySettings") -> Iterator[str]:
    return (variant.strip() for variant in settings.variants.split(";") if variant.strip())


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]
