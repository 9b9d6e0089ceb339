"""Online SDPO on a real model, small enough for a laptop: our own English prompts, and a rule as the user."""

from dataclasses import replace

from jobs import train_online_helpsteer
from sdpo.runtime.launch import Job, main
from sdpo.settings import JOB as FROM_JOB
from sdpo.settings import RECIPE, OnlineSettings

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MODEL_LR = 2e-4  # a model of this size needs twice the recipe's (docs/real.md)


def with_learning_rate(settings: OnlineSettings, job: Job) -> OnlineSettings:
    """Return the settings with MODEL_LR if the model is the demo's own and the user gave no LR."""
    if settings.model_name_or_path != MODEL or settings.sources["lr"] != RECIPE:
        return settings
    return replace(settings, lr=MODEL_LR, sources={**settings.sources, "lr": FROM_JOB})


JOB = Job(
    name="demo-real",
    summary="a small real model learns a style from a user who is played by a rule: no server, no key",
    settings=OnlineSettings,
    folder="sdpo-runs",
    run="sdpo.train.online.job:run",
    report="sdpo.report:write_report",
    plan="sdpo.plan.job:dry_run_lines",
    check="sdpo.train.online.job:check",
    fill="jobs.demo_real:with_learning_rate",
    needs_simulator=True,  # for a user other than the rule
    oracles=train_online_helpsteer.JOB.oracles,
    data_target="prep-english",
    defaults={
        **train_online_helpsteer.JOB.defaults,
        "recipe": "recommended",
        "model_name_or_path": MODEL,
        "user_model_name_or_path": "rule",
        "style": "brief",
        "bs": 8,
        "ga": 1,
        "world_size": 1,
        "train_n": 240,
        "max_completion_tokens": 64,
        "eval_n": 64,
        "gradient_checkpointing": False,
        "train_jsonl": "data/english_prompts/train.jsonl",
        "val_jsonl": "data/english_prompts/validation.jsonl",
    },
    tiny=train_online_helpsteer.JOB.tiny,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
