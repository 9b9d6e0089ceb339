"""Compares a canary with what is live, and with FINISH=1 promotes it or takes it back."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import CanarySettings
from sdpo.tiny import LOOP

JOB = Job(
    name="canary",
    summary="compare the ratings and complaints of a canary with those of what is live",
    settings=CanarySettings,
    run="sdpo.learn.canary:run",
    tiny=LOOP,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
