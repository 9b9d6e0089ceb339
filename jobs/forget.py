"""Removes all conversations of a user from the store, and says what learned from them."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import ForgetSettings
from sdpo.tiny import LOOP

JOB = Job(
    name="forget",
    summary="remove a user's conversations and say what learned from them",
    settings=ForgetSettings,
    run="sdpo.gateway.service:forget",
    check="sdpo.gateway.service:check_forget",
    tiny={"user": "nobody", **LOOP},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
