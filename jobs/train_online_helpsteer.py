"""Online SDPO on general prompts: the policy learns a user's style from follow-ups that Claude writes as the user."""

from jobs import train_online_tldr
from sdpo.runtime.launch import Job, main
from sdpo.settings import OnlineSettings

JOB = Job(
    name="train-online-helpsteer",
    summary="online SDPO on HelpSteer2 prompts, with Claude as a simulated user who wants a style",
    settings=OnlineSettings,
    folder="sdpo-runs",
    run="sdpo.train.online.job:run",
    report="sdpo.report:write_report",
    plan="sdpo.plan.job",
    check="sdpo.train.online.job:check",
    become="sdpo.train.finished:instead_of_training",
    needs_simulator=True,
    oracles=("sdpo.tiny.world:TinyOracle", "sdpo.english.oracle:EnglishOracle"),
    data_target="prep-helpsteer",
    defaults={
        "model": "Qwen/Qwen3-8B",
        "user_model_name_or_path": "claude-haiku-4-5-20251001",
        "user_temperature": 0,
        "user_max_tokens": 256,
        "style": "no_emojis",
        "lr": 5e-6,
        "bs": 2,
        "ga": 4,
        "world_size": 4,
        "train_n": 512,
        "max_prompt_tokens": 512,
        "max_completion_tokens": 2048,
        "train_jsonl": "data/helpsteer2_prompts/train.jsonl",
        "val_jsonl": "data/helpsteer2_prompts/validation.jsonl",
    },
    # The tiny model is the user here too, and it was trained to be sampled with a temperature.
    tiny={**train_online_tldr.JOB.tiny, "user_temperature": 0.7},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
