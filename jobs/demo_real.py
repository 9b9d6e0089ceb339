"""Online SDPO on a real model, small enough for a laptop: our own English prompts, and a rule as the user."""

from jobs import train_online_helpsteer
from sdpo.runtime.launch import Job, main
from sdpo.settings import OnlineSettings

JOB = Job(
    name="demo-real",
    summary="a small real model learns a style from a user who is played by a rule: no server, no key",
    settings=OnlineSettings,
    folder="sdpo-runs",
    run="sdpo.train.online.job:run",
    check="sdpo.train.online.job:check",
    needs_simulator=True,  # for a user other than the rule
    oracles=train_online_helpsteer.JOB.oracles,
    data_target="prep-english",
    defaults={
        **train_online_helpsteer.JOB.defaults,
        "recipe": "recommended",
        "model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
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
