"""The simulated user's server: is it there, and `transformers serve` as a child that cannot outlive us."""

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
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sdpo.errors import ServerError, SettingError
from sdpo.llm import checked_url, is_loopback, shown_url

START_HINT = "Start one with `make simulator`, or leave SIMULATOR_URL unset and the job starts its own."
OTHER_HINT = "Start it, correct {setting}, or leave that unset and the model is loaded by the job."
STOP_SECONDS = 10
REPORT_EVERY_SECONDS = 15

# What must not reach the server: secrets it has no use for, and words that make it a rank of our training.
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_NEEDED_SECRETS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
_RANKS = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
_LAUNCHERS = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_")
_PR_SET_PDEATHSIG = 1


def check_health(url: str, model: str | None = None, timeout: float = 10, *, setting: str = "SIMULATOR_URL") -> None:
    """Return if a server answers at the URL, which ends in /v1 and came from `setting`.

    Raises ServerError where none does, or where it lists its models and `model` is not among them;
    SettingError where the URL is none.
    """
    url = checked_url(url, setting)
    hint = START_HINT if setting == "SIMULATOR_URL" else OTHER_HINT.format(setting=setting)
    parts = urlsplit(url)
    # Not /v1/models first: transformers serve reads the whole model cache for it.
    health = urlunsplit(parts._replace(path=parts.path.removesuffix("/v1") + "/health"))
    models = urlunsplit(parts._replace(path=parts.path + "/models"))
    tried = health
    try:
        status, _ = _get(health, timeout)
        if status in (401, 403, 404, 405):
            tried = models
            status, body = _get(models, timeout)
            if status in (401, 403):
                return  # it is there; whether the key is right, the first request will tell
            if status == 200 and model is not None:
                _check_listed(body, model, tried)
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"No server answers at {shown_url(tried)} ({_cause(error)}). {hint}") from None
    if status != 200:
        raise ServerError(f"The server at {shown_url(tried)} is not well (HTTP {status}). {hint}")


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
) -> Iterator[str]:
    """Serve the model on this machine for as long as the block lasts, and give the URL that ends in /v1.

    Requests must name the model as `model` does, to the letter. It listens on the IP address `host`. `gpu` is
    what CUDA_VISIBLE_DEVICES will be: None leaves it alone, an empty string means the CPU. `memory_share` is the
    share of that GPU's whole memory to keep for the cache. With `temperature` one short request is made before
    the block starts: it fixes the sampling settings of the server's life, and shows a cache that does not fit now
    instead of later.
    Raises ServerError where the server dies or is not there after `timeout` seconds. Enter and leave the block
    in one thread: the server dies with it.
    """
    if "@" in model and Path(model).exists():
        raise SettingError(f"{model} cannot be served: transformers reads what follows the @ as a revision. Move it.")
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
            env=_environment(gpu),
            # Not in the terminal's group: Ctrl-C is for the trainer, which still has to save.
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )
    ready = False
    try:
        deadline = time.monotonic() + timeout
        root = f"http://{_reachable(host)}:{port}"
        try:
            _wait(process, f"{root}/health", model, deadline)
            if temperature is not None:
                _first_request(f"{root}/v1/chat/completions", model, temperature, deadline)
        except ServerError as error:
            raise ServerError(f"{error} Its log, {log_path}, ends: {_last_log_error(log_path, log_start)}") from None
        ready = True
        yield f"{root}/v1"
    finally:
        if ready and process.poll() is not None:
            print(f"The server for {model} had ended by itself; its log is {log_path}.", file=sys.stderr, flush=True)
        _stop(process)


def _command(model: str, host: str, port: int, gpu: str | None, memory_share: float | None) -> list[str]:
    command = [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", model]
    command += ["--continuous-batching", "--reasoning", "off", "--log-level", "warning"]
    command += ["--host", host, "--port", str(port)]
    if gpu == "":
        # By itself it takes most of the machine's memory on a CPU: 6 GB of 23 for the tiny model, not 0.6.
        command += ["--device", "cpu", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "1024"]
    if memory_share is not None:
        command += ["--cb-max-memory-percent", str(memory_share)]
    return command


def _environment(gpu: str | None) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in _NEEDED_SECRETS or not _SECRET.search(name.upper()))
        and name not in _RANKS
        and not name.startswith(_LAUNCHERS)
    }
    # Two processes that each take every core wait for each other: 20 times slower on two cores.
    kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    kept |= {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    return kept if gpu is None else kept | {"CUDA_VISIBLE_DEVICES": gpu}


def _end_with_parent():
    """Return what the child runs before it becomes the server, or None where the system cannot do it."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # found before the fork: after it, little is safe
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return tie


def _reachable(host: str) -> str:
    """Return how an address listened on is written in a URL; a server on every address is asked on this machine's."""
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
            # Another server there would answer our health check in the place of ours.
            raise ServerError(
                f"Port {port or 0} of {host} cannot be used: {error.strerror}. Stop what is there, or listen elsewhere."
            ) from None
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, health: str, model: str, deadline: float) -> None:
    started = said = time.monotonic()
    while True:
        if process.poll() is not None:
            raise ServerError(f"The server for {model} ended with code {process.returncode} before it was ready.")
        try:
            if _get(health, timeout=5)[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        now = time.monotonic()
        if now > deadline:
            raise ServerError(f"The server for {model} was not ready after {now - started:.0f} s.")
        if now - said >= REPORT_EVERY_SECONDS:
            said = now
            print(f"Waiting for the server of {model}: {now - started:.0f} s", file=sys.stderr, flush=True)
        time.sleep(0.2)


def _first_request(url: str, model: str, temperature: float, deadline: float) -> None:
    body = {
        "model": model,
        "temperature": temperature,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    try:
        status, _ = _get(url, max(1.0, deadline - time.monotonic()), json.dumps(body).encode())
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"The server for {model} did not answer its first request ({_cause(error)}).") from None
    if status != 200:
        raise ServerError(f"The server for {model} answered its first request with HTTP {status}.")
    if temperature > 0 and not _samples_with_temperature(model):
        print(
            f"{model} has no do_sample in its generation_config.json: its server answers greedily at any temperature.",
            file=sys.stderr,
            flush=True,
        )


def _samples_with_temperature(model: str) -> bool:
    """Return whether the server heeds a temperature: not without `do_sample` in the model's own settings."""
    if Path(model).is_dir():
        path = Path(model) / "generation_config.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "generation_config.json")
        path = Path(found) if isinstance(found, str) else Path()
    return path.is_file() and json.loads(path.read_text("utf-8")).get("do_sample") is True


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when an impatient Ctrl-C ends the wait
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _get(url: str, timeout: float, data: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body, whatever the status. Raises OSError or HTTPException."""
    proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=timeout) as answer:
            return answer.status, answer.read(1_000_000)
    except urllib.error.HTTPError as error:
        return error.code, b""


def _check_listed(body: bytes, model: str, url: str) -> None:
    try:
        listed = [entry["id"] for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        raise ServerError(f"What answers at {shown_url(url)} is no OpenAI-compatible server. {START_HINT}") from None
    if model not in listed:
        raise ServerError(
            f"The server at {shown_url(url)} has no model {model}: set USER_MODEL_NAME_OR_PATH to one of "
            f"{', '.join(map(str, listed[:5]))}."
        )


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _last_log_error(log_path: Path, start: int) -> str:
    """Return the last error named in the log since `start`, or else its last line."""
    with log_path.open("rb") as log:
        log.seek(start)
        lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    return (errors or lines or ["(it is empty)"])[-1][:300]
