"""Online SDPO on a real model, small enough for a laptop: our own English prompts, and a rule as the user."""

from jobs import prep_english, train_online_helpsteer
from sdpo import settings as settings_module
from sdpo.runtime.launch import Job, main
from sdpo.settings import JOB as FROM_JOB
from sdpo.settings import RECIPE, OnlineSettings, PrepSettings

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MODEL_LR = 2e-4  # a model of this size needs twice the recipe's (docs/real.md)


def with_learning_rate(settings: OnlineSettings, job: Job) -> OnlineSettings:
    """Return the settings with MODEL_LR if the model is the demo's own and the user gave no LR."""
    if settings.model != MODEL or settings.sources["lr"] != RECIPE:
        return settings
    return settings.derived(FROM_JOB, lr=MODEL_LR)


def check(settings: OnlineSettings, job: Job) -> None:
    """Write the shipped prompts unless they are there, then check what online training checks. Raises SdpoError."""
    from sdpo.data import english
    from sdpo.train.online.job import check as check_training

    path, shipped = settings.train_jsonl, settings_module.source(settings, "train_jsonl") == FROM_JOB
    if path is not None and shipped and not path.exists() and not settings.dry_run:
        english.run(PrepSettings(out_dir=path.parent), prep_english.JOB)
    check_training(settings, job)


JOB = Job(
    name="demo-real",
    summary="a small real model learns a style from a user who is played by a rule: no server, no key",
    settings=OnlineSettings,
    folder="sdpo-runs",
    run="sdpo.train.online.job:run",
    report="sdpo.report:write_report",
    plan="sdpo.plan.job",
    check="jobs.demo_real:check",
    become="sdpo.train.finished:instead_of_training",
    fill="jobs.demo_real:with_learning_rate",
    needs_simulator=True,  # for a user other than the rule
    oracles=train_online_helpsteer.JOB.oracles,
    data_target="prep-english",
    defaults={
        **train_online_helpsteer.JOB.defaults,
        "recipe": "recommended",
        "model": MODEL,
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
    tiny={**train_online_helpsteer.JOB.tiny, "style": "no_emojis"},  # brief is no style of the tiny world
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
