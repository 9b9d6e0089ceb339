"""Compares a TL;DR run's checkpoints with the model it started from: whose summaries match the user's style better?"""

from sdpo.runtime.launch import Job, main
from sdpo.settings import EvalSettings
from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="eval-tldr",
    summary="compare checkpoints of a TL;DR run pairwise with the model it started from",
    settings=EvalSettings,
    run="sdpo.evaluate.job:run",
    report="sdpo.report:write_report",
    check="sdpo.evaluate.job:check",
    fill="sdpo.evaluate.trained_run:fill",
    oracles=("sdpo.tiny.world:TinyOracle", "sdpo.english.oracle:EnglishOracle"),
    data_target="prep-tldr",
    system_prompt=SUMMARY_SYSTEM,
    prompt_suffix="\nTL;DR:\n",
    defaults={
        "world_size": 4,
        "max_completion_tokens": 258,
        "judge_model": "Qwen/Qwen3-8B",
        "val_jsonl": "data/tldr_prompts_unique/validation.jsonl",
    },
    # With greedy decoding the tiny model never uses an emoji, so a judge of that style would find no difference.
    tiny={
        "world_size": 1,
        "judge_model": "oracle tiny",
        "eval_temperature": 1.0,
        "eval_batch_size": 64,
        "judge_batch_size": 32,
        "val_jsonl": WORLD_DIR / "data" / "validation.jsonl",
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
