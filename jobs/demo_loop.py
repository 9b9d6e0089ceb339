"""The loop with the tiny model: rule users chat through a gateway, a night of learning, what is better goes live."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import DemoLoopSettings

JOB = Job(
    name="demo-loop",
    summary="the tiny model learns from users who chat through a gateway: server, gateway, learning, before and after",
    settings=DemoLoopSettings,
    folder="demo-loop",
    run="sdpo.learn.demo:run",
    check="sdpo.learn.demo:check",
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
