"""Compares a run's checkpoints with the model it started from, on general prompts, with Claude as the judge."""

from jobs import eval_tldr
from sdpo.runtime.launch import Job, main
from sdpo.settings import EvalSettings
from sdpo.settings.evaluation import GENERAL_JUDGE

JOB = Job(
    name="eval-helpsteer",
    summary="compare checkpoints of a run pairwise with the model it started from, on general prompts",
    settings=EvalSettings,
    run="sdpo.evaluate.job:run",
    report="sdpo.report:write_report",
    check="sdpo.evaluate.job:check",
    fill="sdpo.evaluate.trained_run:fill",
    oracles=("sdpo.tiny.world:TinyOracle", "sdpo.english.oracle:EnglishOracle"),
    data_target="prep-helpsteer",
    defaults={
        "world_size": 4,
        "max_completion_tokens": 2048,
        "judge_model": GENERAL_JUDGE,
        "val_jsonl": "data/helpsteer2_prompts/validation.jsonl",
    },
    tiny=eval_tldr.JOB.tiny,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
