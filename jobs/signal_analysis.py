"""The signal per token under an unrelated and a relevant follow-up, drawn before anything is trained."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import AnalysisSettings
from sdpo.tiny import MODEL_DIR, WORLD_DIR

JOB = Job(
    name="signal-analysis",
    summary="draw what a follow-up, shown in hindsight, does to each token of an answer",
    settings=AnalysisSettings,
    folder="signal-analysis",
    run="sdpo.signal.analysis:run",
    check="sdpo.signal.analysis:check",
    defaults={"model": "Qwen/Qwen3-8B"},
    tiny={
        "model": MODEL_DIR,
        "cases_json": WORLD_DIR / "data" / "cases.json",
        "max_completion_tokens": 48,
        "bs": 32,
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
