"""Prepares interactions from your own conversations, in any of the supported file formats."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import LogsPrepSettings
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="prep-logs",
    summary="write the interactions of your own conversations",
    settings=LogsPrepSettings,
    run="sdpo.data.logs:run",
    check="sdpo.data.logs_check:check",
    defaults={"out_dir": "data/logs"},
    tiny={"input": WORLD_DIR / "data" / "logs", "out_dir": "data/tiny/logs"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
