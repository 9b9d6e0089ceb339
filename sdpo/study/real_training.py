"""The training runs of the study on real models, each the job itself in a process of its own.

Online the rule user replies to the policy's answers. Offline the model learns from a log: its answers before any
training, and the rule user's replies to them.
"""

import shlex
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.errors import GuardStopped
from sdpo.runtime.run_directory import RunDirectory
from sdpo.study.real_calls import as_key, call, flags, is_bf16, items, variants

if TYPE_CHECKING:
    from sdpo.settings import RealStudySettings

ONLINE, OFFLINE, PREPARE = "train-online-helpsteer", "train-offline", "prep-english"
FOLDERS = {ONLINE: "sdpo-runs", OFFLINE: "sdpo-offline-runs"}
FIGURES = ("adherence", "validity", "mean_length", "fluency", "surprise", "topic", "leak", "distance")


@dataclass(frozen=True)
class TrainingSpec:
    """One training run; `variant` are settings as NAME=value words."""

    model: str
    style: str
    variant: str
    seed: int
    interactions: int
    job: str = ONLINE

    @property
    def key(self) -> str:
        """A name of the run that is safe for a folder."""
        logged = " logs" if self.job == OFFLINE else ""
        return as_key(
            f"{Path(self.model).name} {self.style} {self.variant} {self.interactions}{logged} seed{self.seed}"
        )


def train(settings: "RealStudySettings", directory: RunDirectory, job: str, results: str) -> None:
    """Do the training runs of one job that have no line in the file of results yet."""
    specs = [
        TrainingSpec(model, style, variant, seed, settings.interactions, job)
        for model in settings.model.split()
        for variant in variants(settings)
        for style in items(settings.styles)
        for seed in range(settings.seeds)
    ]
    done = {row["key"] for row in directory.read_rows(results) if row["kind"] == "training"}
    missing = [spec for spec in specs if spec.key not in done]
    print(f"{job}: {len(specs)} training runs, {len(specs) - len(missing)} of them done", flush=True)
    data = {spec: _data(settings, spec) for spec in missing}  # written before several runs share it
    with ThreadPoolExecutor(settings.parallel) as pool:
        running = {pool.submit(_train_one, settings, spec, data[spec]): spec for spec in missing}
        ended = progress.each(as_completed(running), "training runs", "runs", len(missing))
        for number, future in enumerate(ended, start=1):
            row = future.result()
            directory.append(results, [row])
            before, after = row["before"], row["after"]
            print(
                f"[{number}/{len(missing)}] {running[future].key}: adherence {before['adherence']:.2f} to "
                f"{after['adherence']:.2f}, fluency {before['fluency']:.2f} to {after['fluency']:.2f}, "
                f"guard {row['stopped'] or 'did not stop it'}",
                flush=True,
            )


def _data(settings: "RealStudySettings", spec: TrainingSpec) -> dict[str, Any]:
    """Return the settings that name a run's data and its user, after writing data that is not there yet."""
    if spec.job == ONLINE:
        prompts = settings.scratch / "english_prompts"
        if not prompts.exists():
            call(PREPARE, ["--out-dir", str(prompts)], settings.scratch / "prep.log")
        return {"DATA_PATH": prompts, "USER_MODEL_NAME_OR_PATH": "rule", "TRAIN_N": spec.interactions}
    from sdpo.study.real_interactions import write_interactions

    folder, name = settings.scratch / "logs", Path(spec.model).name
    files = {}
    for setting, split, count in (
        ("TRAIN_JSONL", "train", spec.interactions),
        ("VAL_JSONL", "validation", settings.eval_n),
    ):
        part = folder / f"{split}-{count}-{spec.seed}"
        files[setting] = part / f"{name}-{spec.style}.jsonl"
        if not files[setting].exists():
            part.mkdir(parents=True, exist_ok=True)
            length, bf16 = settings.max_completion_tokens, is_bf16(settings)
            write_interactions(part, name, spec.model, [spec.style], count, length, bf16, split, spec.seed)
    return files


def _train_one(settings: "RealStudySettings", spec: TrainingSpec, data: dict[str, Any]) -> dict[str, Any]:
    """Train in a process of its own and return the result's line."""
    given = dict(word.partition("=")[::2] for word in shlex.split(spec.variant))
    values = {
        "MODEL": spec.model,
        **data,
        "STYLE": spec.style,
        "SEED": spec.seed,
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
    run = RunDirectory(settings.scratch / FOLDERS[spec.job] / spec.key)
    # A study that was stopped may have left a run that is finished, which trains no more.
    if not (run.read_json("summary.json") or {}).get("finished"):
        call(spec.job, flags(values), settings.scratch / f"{spec.key}.log", allowed=(0, GuardStopped.exit_code))
    return _result(spec, run)


def _result(spec: TrainingSpec, run: RunDirectory) -> dict[str, Any]:
    """Return the line of a run that has ended."""
    summary = run.read_json("summary.json") or {}
    metrics, guard = run.read_rows("metrics.jsonl"), run.read_rows("guard.jsonl")
    started = run.read_json("run.json") or {}
    device = started.get("device")
    if device == "CPU" and started["settings"]["precision"] == "bf16":
        device += ", bf16"  # a GPU's is bf16 unless something else was asked for
    return {
        "kind": "training",
        "job": spec.job,
        "key": spec.key,
        "model": Path(spec.model).name,
        "style": spec.style,
        "variant": spec.variant,
        "seed": spec.seed,
        "device": device,
        "interactions": metrics[-1]["interactions"] if spec.job == ONLINE else spec.interactions,
        **{when: _figures(summary[when]) for when in ("before", "shown", "after")},
        "curve": [[row["interactions"], row.get("adherence"), round(row["entropy"], 3)] for row in metrics],
        "surprise": [round(row["measures"].get("surprise", 0.0), 3) for row in guard],
        "stopped": summary.get("stopped_by_guard"),
        "seconds": summary["seconds"],
    }


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures.get(name) for name in FIGURES} | {"axes": figures["axes"]}
