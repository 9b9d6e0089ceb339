"""Talks to the served model, on the terminal or with PAGE=1 in a browser: before and after, side by side."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import ChatSettings
from sdpo.tiny import MODEL_DIR

JOB = Job(
    name="chat",
    serves=True,
    summary="talk to the served model: compare it with the one before, see what your follow-ups say, rate answers",
    settings=ChatSettings,
    run="sdpo.chat.job:run",
    check="sdpo.chat.job:check",
    # The tiny model was trained with this template, and without thoughts.
    tiny={"model": MODEL_DIR, "hindsight_template": "framed", "template_settings": "enable_thinking=false"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
