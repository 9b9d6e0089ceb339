"""Lists the versions of the registry, and what is live."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import RegistrySettings
from sdpo.tiny import LOOP

JOB = Job(
    name="versions",
    summary="list the versions and what is live",
    settings=RegistrySettings,
    run="sdpo.registry.job:run_versions",
    tiny=LOOP,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
