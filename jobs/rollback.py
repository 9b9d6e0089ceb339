"""Goes back to the version that was live before, or takes a canary back."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import RollbackSettings
from sdpo.tiny import LOOP

JOB = Job(
    name="rollback",
    summary="go back to the version that was live before, or end a canary",
    settings=RollbackSettings,
    run="sdpo.registry.job:run_rollback",
    tiny=LOOP,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
