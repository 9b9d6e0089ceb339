"""Prepares this project's own English prompts, for any model and for users and judges by rule."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import PrepSettings

JOB = Job(
    name="prep-english",
    summary="write this project's own English prompts",
    settings=PrepSettings,
    run="sdpo.data.english:run",
    check="sdpo.data.english:check",
    defaults={"out_dir": "data/english_prompts"},
    tiny={"out_dir": "data/tiny/english_prompts"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
