"""Runs Python code that a model wrote, in a process of its own with limits (`sdpo.evaluate.sandbox`)."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_SANDBOX = Path(__file__).with_name("sandbox.py")
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def code_in(answer: str) -> str:
    """Return the code of an answer: its first fenced block, or all of it if it has none."""
    block = _FENCE.search(answer)
    return block[1] if block else answer


def passes(code: str, tests: str, seconds: int = 5, size: int = 512 * 2**20) -> bool:
    """Return whether the code and then its tests run without an exception within the limits.

    `seconds` limits the processor time, and twice that the time on the clock; `size` is the address space in bytes.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sdpo-code-") as folder:
        program = Path(folder) / "program.json"
        values = {"code": code, "tests": tests, "token": token, "seconds": seconds, "bytes": size}
        program.write_text(json.dumps(values), "utf-8")  # a lone surrogate is escaped by json
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SANDBOX), str(program)],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(2 * seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert process.stdout is not None  # it is a pipe
        with process.stdout as output:
            # The process has ended, so this does not wait; whatever the program wrote itself is not the token.
            return process.returncode == 0 and output.read(len(token)) == token.encode()
