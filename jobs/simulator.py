"""Runs the simulated user's server in the foreground, for jobs that get its address as SIMULATOR_URL."""

import signal
import time
from typing import NoReturn

from sdpo.errors import ServerError
from sdpo.runtime.launch import Job, main
from sdpo.runtime.processes import visible_gpus
from sdpo.settings import SimulatorSettings
from sdpo.settings.inputs import check_model
from sdpo.tiny import MODEL_DIR

JOB = Job(
    name="simulator",
    serves=True,
    summary="serve the simulated user's model until interrupted",
    settings=SimulatorSettings,
    folder="simulator-logs",
    run="jobs.simulator:run",
    check="jobs.simulator:check",
    defaults={"user_model_name_or_path": "Qwen/Qwen3-4B", "port": 8000},
    tiny={"user_model_name_or_path": MODEL_DIR},
)

_SECONDS_BETWEEN_CHECKS = 10
_FAILED_CHECKS = 6


def check(settings: SimulatorSettings, job: Job) -> None:
    """Raise SettingError if the model to serve does not exist."""
    check_model(settings, "user_model_name_or_path", settings.user_model_name_or_path)


def run(settings: SimulatorSettings, job: Job) -> None:
    """Serve the model until Ctrl-C. Raises ServerError if the server does not start, ends or stops responding."""
    from sdpo.llm.server import serve

    model, log = settings.user_model_name_or_path, settings.run_directory_path / "simulator.log"
    gpu = settings.simulator_gpu if settings.simulator_gpu is not None else next(iter(visible_gpus()), "")
    print(f"starting {model} on {f'GPU {gpu}' if gpu else 'the CPU'}; log: {log}", flush=True)
    with serve(model, host=settings.simulator_host, port=settings.port, gpu=gpu, log_path=log) as url:
        print(f"ready at {url}; keep this running and start jobs with\n  SIMULATOR_URL={url}", flush=True)
        try:
            _watch(url)
        except KeyboardInterrupt:
            print("stopping", flush=True)


def _watch(url: str) -> None:
    from sdpo.llm.server import check_health

    def ended(number: int, frame: object) -> NoReturn:
        raise ServerError(f"the server at {url} ended unexpectedly. See its log for the cause, then start it again.")

    failed = 0
    before = signal.signal(signal.SIGCHLD, ended)
    try:
        while failed < _FAILED_CHECKS:  # a busy server may respond late once or twice
            time.sleep(_SECONDS_BETWEEN_CHECKS)
            try:
                check_health(url)
                failed = 0
            except ServerError:
                failed += 1
    finally:
        signal.signal(signal.SIGCHLD, before)
    raise ServerError(f"the server at {url} does not respond. See its log for the cause, then start it again.")


if __name__ == "__main__":
    raise SystemExit(main(JOB))
