"""The simulated user's server: `transformers serve` as a child process that ends with its parent."""

import ctypes
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from sdpo import progress
from sdpo.errors import ServerError, SettingError
from sdpo.llm.health import cause_of, check_health, get

__all__ = ["check_health", "end_with_parent", "serve"]

STOP_SECONDS = 10

# Variables that must not reach the server: secrets that it does not need, and those that make it a training rank.
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_NEEDED_SECRETS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
_RANKS = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
_LAUNCHERS = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_")
_PR_SET_PDEATHSIG = 1


@contextmanager
def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    gpu: str | None = None,
    log_path: Path,
    timeout: float = 600,
    memory_share: float | None = None,
    temperature: float | None = None,
    threads: int | None = None,
) -> Iterator[str]:
    """Serve the model on this machine while the block runs, and yield the URL, which ends in /v1.

    Requests must use exactly the name `model`. The server listens on the IP address `host`. `gpu` is the server's
    CUDA_VISIBLE_DEVICES: None leaves it unchanged, an empty string means the CPU. `memory_share` is the share of that
    GPU's total memory to reserve for the cache. With `temperature` one short request is sent before the block starts:
    it fixes the sampling settings for the server's lifetime, and a cache that does not fit fails now instead of later.
    `threads` is the number to compute with on a CPU.
    Raises ServerError if the server ends or is not ready after `timeout` seconds. Enter and leave the block
    in one thread: the server ends with that thread.
    """
    if "@" in model and Path(model).exists():
        raise SettingError(f"{model} cannot be served: transformers reads the part after the @ as a revision. Move it.")
    port = _free_port(host, port)
    command = _command(model, host, port, gpu, memory_share)
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(gpu, threads),
            # Not in the terminal's process group: Ctrl-C is for the trainer, which still needs the server to save.
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )
    ready = False
    try:
        deadline = time.monotonic() + timeout
        root = f"http://{_reachable(host)}:{port}"
        try:
            with progress.task(f"starting the server for {model}"):
                _wait(process, f"{root}/health", model, deadline)
                if temperature is not None:
                    _first_request(f"{root}/v1/chat/completions", model, temperature, deadline)
        except ServerError as error:
            raise ServerError(
                f"{error} Its log, {log_path}, ends with: {_last_log_error(log_path, log_start)}"
            ) from None
        ready = True
        yield f"{root}/v1"
    finally:
        if ready and process.poll() is not None:
            print(f"The server for {model} ended unexpectedly; its log is {log_path}.", file=sys.stderr, flush=True)
        _stop(process)


def _command(model: str, host: str, port: int, gpu: str | None, memory_share: float | None) -> list[str]:
    command = [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", model]
    command += ["--continuous-batching", "--reasoning", "off", "--log-level", "warning"]
    command += ["--host", host, "--port", str(port)]
    if gpu == "":
        # On a CPU it would reserve most of the machine's memory: 6 GB of 23 for the tiny model instead of 0.6.
        command += ["--device", "cpu", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "1024"]
    if memory_share is not None:
        command += ["--cb-max-memory-percent", str(memory_share)]
    return command


def _environment(gpu: str | None, threads: int | None = None) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if (name in _NEEDED_SECRETS or not _SECRET.search(name.upper()))
        and name not in _RANKS
        and not name.startswith(_LAUNCHERS)
    }
    # Two processes that each use every core wait for each other: 20 times slower on two cores.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    environment |= {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return environment if gpu is None else environment | {"CUDA_VISIBLE_DEVICES": gpu}


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """Return a function for the child to run before exec that ends it with its parent; None if not on Linux.

    The child gets this signal when the thread that started it ends.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: after it, few calls are safe
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)

    return tie


def _reachable(host: str) -> str:
    """Return the host for URLs of a server that listens on `host`: the loopback address if it listens on all."""
    address = ip_address(host)
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    return str(address) if address.version == 4 else f"[{address}]"


def _free_port(host: str, port: int | None) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port or 0))
        except OSError as error:
            # Another server on that port would answer the health check instead of the new one.
            raise ServerError(
                f"Port {port or 0} of {host} cannot be used: {error.strerror}. Stop what uses it, or change the port."
            ) from None
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, health: str, model: str, deadline: float) -> None:
    started = time.monotonic()
    while True:
        if process.poll() is not None:
            raise ServerError(f"The server for {model} ended with code {process.returncode} before it was ready.")
        try:
            if get(health, timeout=5)[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        now = time.monotonic()
        if now > deadline:
            raise ServerError(f"The server for {model} was not ready after {now - started:.0f} s.")
        time.sleep(0.2)


def _first_request(url: str, model: str, temperature: float, deadline: float) -> None:
    body = {
        "model": model,
        "temperature": temperature,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    try:
        status, _ = get(url, max(1.0, deadline - time.monotonic()), json.dumps(body).encode())
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"The server for {model} did not answer its first request ({cause_of(error)}).") from None
    if status != 200:
        raise ServerError(f"The server for {model} answered its first request with HTTP {status}.")
    if temperature > 0 and not _samples_with_temperature(model):
        print(
            f"{model} has no do_sample in its generation_config.json: its server answers greedily at any temperature.",
            file=sys.stderr,
            flush=True,
        )


def _samples_with_temperature(model: str) -> bool:
    """Return whether the server uses a temperature: only with `do_sample` in the model's generation config."""
    if Path(model).is_dir():
        path = Path(model) / "generation_config.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "generation_config.json")
        path = Path(cached) if isinstance(cached, str) else Path()
    return path.is_file() and json.loads(path.read_text("utf-8")).get("do_sample") is True


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also if Ctrl-C interrupts the wait
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_log_error(log_path: Path, start: int) -> str:
    """Return the last error message in the log after byte `start`, otherwise its last line."""
    with log_path.open("rb") as log:
        log.seek(start)
        lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    return (errors or lines or ["(it is empty)"])[-1][:300]
