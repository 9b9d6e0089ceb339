"""Writes the conversations of the store to a file that prep-logs reads."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import ExportConversationsSettings
from sdpo.tiny import LOOP

JOB = Job(
    name="export-conversations",
    summary="write the store's conversations for prep-logs",
    settings=ExportConversationsSettings,
    run="sdpo.gateway.service:export",
    check="sdpo.gateway.service:check",
    tiny=LOOP,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
