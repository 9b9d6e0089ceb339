"""Plots the signal per token for an unrelated and a relevant follow-up, before any training."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import AnalysisSettings
from sdpo.tiny import MODEL_DIR, WORLD_DIR

JOB = Job(
    name="signal-analysis",
    summary="plot how a follow-up, shown in hindsight, changes each token of an answer",
    settings=AnalysisSettings,
    folder="signal-analysis",
    run="sdpo.signal.analysis:run",
    check="sdpo.signal.analysis:check",
    defaults={"model": "Qwen/Qwen3-8B"},
    tiny={
        "model": MODEL_DIR,
        "hindsight_template": "framed",  # the tiny model was trained with it
        "cases_json": WORLD_DIR / "data" / "cases.json",
        "max_completion_tokens": 48,
        "bs": 32,
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
