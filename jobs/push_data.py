"""Uploads the data of a prep- job to the hub, as a private dataset."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import PushDataSettings
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="push-data",
    summary="upload prepared data to the hub, private unless PUBLIC=1",
    settings=PushDataSettings,
    run="sdpo.data.push:run",
    check="sdpo.data.push:check",
    tiny={"data": WORLD_DIR / "data", "repo": "someone/tiny-world", "allow_unredacted": True},  # for dry runs
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
