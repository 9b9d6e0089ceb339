"""Learns from what was said: audit, training, evaluation, and a new version if it is better than what is live."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import LearnSettings
from sdpo.tiny import LOOP, MODEL_DIR, WORLD_DIR

JOB = Job(
    name="learn",
    summary="learn from conversations, and let what is better go live",
    settings=LearnSettings,
    folder="learn",
    run="sdpo.learn.job:run",
    check="sdpo.learn.job:check",
    fill="sdpo.learn.job:fill",
    report="sdpo.report:write_report",
    tiny={
        "model": MODEL_DIR,
        **LOOP,
        "input": WORLD_DIR / "data" / "interactions.jsonl",
        "style": "concise_professional_expert",
        "judge_model": "oracle",
        "audit_settings": "AUDIT_N=160",
        "train_settings": "LR=1e-3 NULL_CONTRAST=1 CONTRAST_STRENGTH=1.5 EVAL_N=0 HOLDOUT=0",
        "eval_settings": "JUDGE_TRUTH=0",
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
