"""Lets a version of the registry or a checkpoint of a training run go live, or first answer some conversations."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import PromoteSettings
from sdpo.tiny import LOOP

JOB = Job(
    name="promote",
    summary="let a version or a training run go live, or with CANARY answer a share of the conversations",
    settings=PromoteSettings,
    check="sdpo.registry.job:check_promote",
    run="sdpo.registry.job:run_promote",
    tiny=LOOP,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
