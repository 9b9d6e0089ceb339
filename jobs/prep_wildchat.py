"""Prepares the interactions of WildChat: a random subset of its English conversations."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import ConversationPrepSettings
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="prep-wildchat",
    summary="write the interactions of allenai/WildChat",
    settings=ConversationPrepSettings,
    run="sdpo.data.prepare:conversations",
    check="sdpo.data.prepare:check",
    defaults={
        "out_dir": "data/wildchat",
        "max_conversations": 15_000,
        "max_interactions": 50_000,
        "min_conversations": 14_000,
    },
    tiny={"source": WORLD_DIR / "data" / "wildchat", "out_dir": "data/tiny/wildchat"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
