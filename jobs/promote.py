"""Lets a version of the registry go live, or answer a share of the conversations first."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import PromoteSettings

JOB = Job(
    name="promote",
    summary="let a version go live, or with CANARY answer a share of the conversations",
    settings=PromoteSettings,
    run="sdpo.registry.job:run_promote",
    tiny={"registry": "runs/tiny-registry"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
