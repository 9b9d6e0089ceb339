"""Offline SDPO on the interactions of WildFeedback."""

from jobs.train_offline import offline_job
from sdpo.runtime.launch import main

JOB = offline_job(
    "train-offline-wildfeedback",
    "WildFeedback",
    "prep-wildfeedback",
    "data/wildfeedback/wildfeedback_interactions.jsonl",
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
