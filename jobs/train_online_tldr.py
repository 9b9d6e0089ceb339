"""Online SDPO on TL;DR: the policy learns a user's style of summaries from the user's follow-ups."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import OnlineSettings
from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR, STYLES_FILE, WORLD_DIR

JOB = Job(
    name="train-online-tldr",
    summary="online SDPO on Reddit posts, with a simulated user who wants a style of summary",
    settings=OnlineSettings,
    folder="sdpo-tldr-runs",
    run="sdpo.train.online.job:run",
    report="sdpo.report:write_report",
    plan="sdpo.plan.job",
    check="sdpo.train.online.job:check",
    become="sdpo.train.finished:instead_of_training",
    needs_simulator=True,
    oracles=("sdpo.tiny.world:TinyOracle", "sdpo.english.oracle:EnglishOracle"),
    data_target="prep-tldr",
    system_prompt=SUMMARY_SYSTEM,
    prompt_suffix="\nTL;DR:\n",
    defaults={
        "model": "Qwen/Qwen3-4B",
        "user_model_name_or_path": "Qwen/Qwen3-4B",
        "style": "concise_casual_beginner",
        "lr": 5e-6,
        "bs": 4,
        "ga": 1,
        "world_size": 4,
        "train_n": 256,
        "max_prompt_tokens": 512,
        "max_completion_tokens": 258,
        "train_jsonl": "data/tldr_prompts_unique/train.jsonl",
        "val_jsonl": "data/tldr_prompts_unique/validation.jsonl",
    },
    tiny={
        "model": MODEL_DIR,
        "user_model_name_or_path": MODEL_DIR,
        "style_file": STYLES_FILE,
        "train_jsonl": WORLD_DIR / "data" / "train.jsonl",
        "val_jsonl": WORLD_DIR / "data" / "validation.jsonl",
        "lr": 2.5e-4,
        "adam_beta1": 0.5,
        "bs": 16,
        "ga": 1,
        "world_size": 1,
        "train_n": 480,
        "max_prompt_tokens": 256,
        "max_completion_tokens": 48,
        "user_max_tokens": 48,
        "user_states_satisfaction": False,  # the tiny model was trained without the question
        "teacher": "frozen",
        "objective": "full",
        "focus": 1.0,
        "null_follow_up": "What's the weather tomorrow?",
        "hindsight_template": "framed",  # the tiny model was trained with it
        "save_steps": 10,
        "log_steps": 3,
        "eval_n": 512,
        "eval_batch_size": 128,
        "gradient_checkpointing": False,
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
