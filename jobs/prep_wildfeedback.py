"""Prepares the interactions of WildFeedback: conversations in which users give feedback on answers."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import ConversationPrepSettings
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="prep-wildfeedback",
    summary="write the interactions of microsoft/WildFeedback",
    settings=ConversationPrepSettings,
    run="sdpo.data.prepare:conversations",
    check="sdpo.data.prepare:check",
    defaults={"out_dir": "data/wildfeedback"},
    tiny={"source": WORLD_DIR / "data" / "wildfeedback", "out_dir": "data/tiny/wildfeedback"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
