"""The simulated user's server alone, in the foreground, for jobs that are given its SIMULATOR_URL."""

import signal
import time
from typing import NoReturn

from sdpo.errors import ServerError
from sdpo.runtime.launch import Job, main
from sdpo.runtime.processes import visible_gpus
from sdpo.settings import SimulatorSettings
from sdpo.tiny import MODEL_DIR

JOB = Job(
    name="simulator",
    summary="the simulated user's server, until it is interrupted",
    settings=SimulatorSettings,
    folder="simulator-logs",
    run="jobs.simulator:run",
    defaults={"user_model_name_or_path": "Qwen/Qwen3-4B", "port": 8000},
    tiny={"user_model_name_or_path": MODEL_DIR},
)

_SECONDS_BETWEEN_LOOKS = 10
_LOOKS_MISSED = 6


def run(settings: SimulatorSettings, job: Job) -> None:
    """Serve the model until Ctrl-C. Raises ServerError where the server does not start or goes away."""
    from sdpo.llm.server import serve

    model, log = settings.user_model_name_or_path, settings.output_dir / "simulator.log"
    gpu = settings.simulator_gpu if settings.simulator_gpu is not None else next(iter(visible_gpus()), "")
    print(f"starting {model} on {f'GPU {gpu}' if gpu else 'the CPU'}; its log: {log}", flush=True)
    with serve(model, host=settings.simulator_host, port=settings.port, gpu=gpu, log_path=log) as url:
        print(f"ready at {url}; leave this running and start jobs with\n  SIMULATOR_URL={url}", flush=True)
        try:
            _watch(url)
        except KeyboardInterrupt:
            print("stopping", flush=True)


def _watch(url: str) -> None:
    from sdpo.llm.server import check_health

    def ended(number: int, frame: object) -> NoReturn:
        raise ServerError(f"the server at {url} ended by itself. Its log says why; start it again.")

    missed = 0
    before = signal.signal(signal.SIGCHLD, ended)
    try:
        while missed < _LOOKS_MISSED:  # a busy server may be late once or twice
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                check_health(url)
                missed = 0
            except ServerError:
                missed += 1
    finally:
        signal.signal(signal.SIGCHLD, before)
    raise ServerError(f"the server at {url} went away. Its log says why; start it again.")


if __name__ == "__main__":
    raise SystemExit(main(JOB))
