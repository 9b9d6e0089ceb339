"""The complete method in minutes on a CPU: the TL;DR job on the tiny world, with a style that a short run can learn."""

import os

from jobs import train_online_tldr
from sdpo.runtime.launch import Job, main
from sdpo.settings import OnlineSettings

STYLE = "no_emojis"


def as_training(settings: OnlineSettings, job: Job) -> Job:
    """Return the TL;DR job, which then runs on the tiny world: nothing but a flag can turn TINY off, as in .env."""
    os.environ["TINY"] = "1"
    if not os.environ.get("STYLE", "").strip():
        os.environ["STYLE"] = STYLE
    return train_online_tldr.JOB


JOB = Job(
    name="demo",
    summary="run the complete method with the tiny model on a CPU",
    settings=OnlineSettings,
    run=train_online_tldr.JOB.run,
    report=train_online_tldr.JOB.report,
    become="jobs.demo:as_training",
    defaults={"tiny": True},
    tiny={**train_online_tldr.JOB.tiny, "style": STYLE},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
