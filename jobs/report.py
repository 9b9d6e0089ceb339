"""Writes one self-contained page about training runs, evaluations or nights of learning."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import ReportSettings

JOB = Job(
    name="report",
    summary="one page about training runs, evaluations or nights of learning: what was run, and what came of it",
    settings=ReportSettings,
    run="sdpo.report.job:run",
    check="sdpo.report.job:check",
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
