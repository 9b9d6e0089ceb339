"""Offline SDPO on the interactions of WildChat."""

from jobs.train_offline import offline_job
from sdpo.runtime.launch import main

JOB = offline_job("train-offline-wildchat", "WildChat", "prep-wildchat", "data/wildchat/wildchat_interactions_v1.jsonl")

if __name__ == "__main__":
    raise SystemExit(main(JOB))
