"""Runs Python code that a model wrote, in a process of its own with limits (`sdpo.evaluate.sandbox`)."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

_SANDBOX = Path(__file__).with_name("sandbox.py")
# A fenced block: what stands beside its first fence, and its content; the last one may have no end.
_BLOCK = re.compile(r"^[ \t]*```[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def code_in(answer: str) -> str:
    """Return the code of an answer: its first fenced block of Python, else of no language, else of any; else all of it.

    A block in a list loses its indentation.
    """
    blocks = [(language.strip().lower(), code) for language, code in _BLOCK.findall(answer)]
    named = [code for language, code in blocks if language.startswith("py")]
    unnamed = [code for language, code in blocks if not language]
    found = named or unnamed or [code for _, code in blocks]
    return textwrap.dedent(found[0]) if found else answer


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
