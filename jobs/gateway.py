"""Serves an OpenAI-compatible gateway in front of a model's server, and keeps the conversations."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import GatewaySettings
from sdpo.tiny import LOOP

JOB = Job(
    name="gateway",
    serves=True,
    summary="pass requests on to an OpenAI-compatible server and keep the conversations, until interrupted",
    settings=GatewaySettings,
    run="sdpo.gateway.service:run",
    check="sdpo.gateway.service:check_gateway",
    tiny=LOOP,
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
