"""The study on real models: what the signal distinguishes, and what training changes."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import RealStudySettings

JOB = Job(
    name="study-real",
    summary="what the signal distinguishes and what training changes on real models; resumes where it was stopped",
    settings=RealStudySettings,
    run="sdpo.study.real:run",
    check="sdpo.study.real:check",
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
