"""The study on the tiny world: all teachers with all objectives, and the guard, over several seeds."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import StudySettings

JOB = Job(
    name="study",
    summary="all teachers with all objectives, and the guard, on the tiny world; resumes where it was stopped",
    settings=StudySettings,
    run="sdpo.study.job:run",
    check="sdpo.study.job:check",
    tiny={
        "study_dir": "runs/study-tiny",
        "study_table": "runs/study-tiny/study.md",
        "parts": "table",
        "teachers": "frozen",
        "objectives": "token",
        "finalists": "frozen token",
        "seeds": 1,
        "finalist_seeds": 1,
        "interactions": 480,
        "answers": 128,
    },
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
