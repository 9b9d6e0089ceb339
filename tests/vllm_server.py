"""A real vLLM on this machine's loopback, from the environment that SDPO_REAL_VLLM names, on the tiny world's model."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdpo.llm.server import end_with_parent
from sdpo.tiny import MODEL_DIR
from tests.commands import clean_environment

ENVIRONMENT = os.environ.get("SDPO_REAL_VLLM", "")
MODEL = "tiny"  # the name under which the tiny model is served
CONTEXT = 2048  # tokens, as many as the tiny model has positions
LORA_RANK = 8

_START_SECONDS = 900
_COUNTERS = {
    "requests": "vllm:request_success_total",
    "generated": "vllm:generation_tokens_total",
    "iterations": "vllm:iteration_tokens_total_count",
}
_FLAGS = [
    "--served-model-name", MODEL, str(MODEL_DIR), "--host", "127.0.0.1", "--dtype", "float32",
    "--max-model-len", str(CONTEXT), "--enforce-eager", "--max-num-seqs", "64",
    "--enable-lora", "--max-lora-rank", str(LORA_RANK), "--max-loras", "2",
]  # fmt: skip


class VllmServer:
    """One vLLM at one address, which can be killed and started again with other flags."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        self.log = folder / "vllm.log"
        self.process: subprocess.Popen | None = None

    def start(self, *flags: str, wait: bool = True, **variables: str) -> None:
        """Start the server, and return once it is ready, or at once."""
        given = {
            "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        environment = clean_environment(**given | variables)
        del environment["PYTHONPATH"]  # it imports nothing of this project
        # Not `vllm serve`, which does not start where the package has another name than vllm.
        command = [f"{ENVIRONMENT}/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL_DIR)]
        command += ["--port", str(self.port), *_FLAGS, *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.log.parent,
                start_new_session=True, preexec_fn=end_with_parent(),
            )  # fmt: skip
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return once the server's health page answers."""
        end = time.monotonic() + _START_SECONDS
        while self.get("/health")[0] != 200:
            assert self.process is not None and self.process.poll() is None, f"vLLM ended:\n{self.log_end()}"
            assert time.monotonic() < end, f"vLLM was not ready after {_START_SECONDS} s:\n{self.log_end()}"
            time.sleep(0.2)

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the server, and return once all of its processes have ended."""
        if self.process is None:
            return
        group = self.process.pid
        if number == signal.SIGKILL:
            os.killpg(group, number)
        else:
            self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait(10)
        self.process = None

    def get(self, path: str) -> tuple[int, Any]:
        """Return status and body of a page; 0 if there is no server."""
        return self._send(urllib.request.Request(self.root + path))

    def post(self, path: str, body: dict) -> tuple[int, Any]:
        """Return status and body of the response to a request."""
        headers = {"Content-Type": "application/json"}
        return self._send(urllib.request.Request(self.root + path, json.dumps(body).encode(), headers))

    def models(self) -> set[str]:
        """Return the names of the models that the server lists."""
        return {entry["id"] for entry in self.get("/v1/models")[1]["data"]}

    def counters(self) -> dict[str, float]:
        """Return how many requests were answered and tokens generated, in how many iterations of the engine."""
        lines = self.get("/metrics")[1].decode().splitlines()
        totals = dict.fromkeys(_COUNTERS, 0.0)
        for line in lines:
            for name, metric in _COUNTERS.items():
                if line.startswith(f"{metric}{{"):
                    totals[name] += float(line.rsplit(" ", 1)[1])
        return totals

    def since(self, before: dict[str, float]) -> dict[str, float]:
        """Return the counters less those `before`."""
        return {name: value - before[name] for name, value in self.counters().items()}

    def log_end(self) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-40:])

    def _send(self, request: urllib.request.Request) -> tuple[int, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        except OSError:
            return 0, None
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content
