"""Offline SDPO on your own conversations, as `prep-logs` writes them."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import OfflineSettings
from sdpo.tiny import MODEL_DIR, WORLD_DIR

DEFAULTS = {
    "model": "Qwen/Qwen3-8B",
    "lr": 2e-6,
    "bs": 4,
    "ga": 8,
    "world_size": 4,
    "save_steps": 200,
    "log_steps": 10,
}
# The shipped users want short answers, formal answers, or both.
TINY = {
    "model": MODEL_DIR,
    "train_jsonl": WORLD_DIR / "data" / "interactions.jsonl",
    "val_jsonl": WORLD_DIR / "data" / "interactions_validation.jsonl",
    "style": "concise_professional_expert",
    "hindsight_template": "framed",  # the tiny model was trained with it
    "lr": 3e-4,
    "bs": 16,
    "ga": 1,
    "world_size": 1,
    "max_context_tokens": 256,
    "max_completion_tokens": 48,
    "teacher": "frozen",
    "objective": "full",
    "min_signal": 0.05,
    "epochs": 3,
    "holdout": 0.1,
    "holdout_steps": 20,
    "save_steps": 20,
    "log_steps": 5,
    "eval_n": 512,
    "eval_batch_size": 128,
    "gradient_checkpointing": False,
}


def offline_job(name: str, source: str, data_target: str, train_jsonl: str) -> Job:
    """Return the offline training job for the interactions of one source."""
    return Job(
        name=name,
        summary=f"offline SDPO on {source}",
        settings=OfflineSettings,
        folder="sdpo-offline-runs",
        run="sdpo.train.offline.job:run",
        report="sdpo.report:write_report",
        plan="sdpo.plan.job",
        check="sdpo.train.offline.job:check",
        become="sdpo.train.finished:instead_of_training",
        oracles=("sdpo.tiny.world:TinyOracle", "sdpo.english.oracle:EnglishOracle"),
        data_target=data_target,
        defaults=DEFAULTS | {"train_jsonl": train_jsonl},
        tiny=TINY,
    )


JOB = offline_job("train-offline", "your own conversations", "prep-logs", "data/logs/logs_interactions.jsonl")

if __name__ == "__main__":
    raise SystemExit(main(JOB))
