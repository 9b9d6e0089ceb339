"""Makes a key for the gateway and prints it once, or withdraws one."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import GatewayKeySettings
from sdpo.tiny import LOOP

JOB = Job(
    name="gateway-key",
    summary="make a key for the gateway and print it once",
    settings=GatewayKeySettings,
    run="sdpo.gateway.service:make_key",
    check="sdpo.gateway.service:check_named",
    tiny={"name": "tiny", **LOOP},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
