"""Checks in minutes, before any training, whether SDPO can work with this model, hindsight template and data."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import AuditSettings
from sdpo.tiny import MODEL_DIR, WORLD_DIR

JOB = Job(
    name="audit",
    summary="check, without training, whether SDPO can work with this model, hindsight template and data",
    settings=AuditSettings,
    folder="audit",
    run="sdpo.signal.audit:run",
    check="sdpo.signal.audit:check",
    data_target="prep-wildfeedback",
    defaults={"model": "Qwen/Qwen3-8B", "data": "data/wildfeedback/wildfeedback_interactions.jsonl"},
    tiny={
        "model": MODEL_DIR,
        "hindsight_template": "framed",  # the tiny model was trained with it
        "data": WORLD_DIR / "data" / "audit.jsonl",
        "judge_model": "oracle",
        "max_completion_tokens": 48,
        "max_prompt_tokens": 256,
        "bs": 32,
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
