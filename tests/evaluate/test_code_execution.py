"""The limits on code that a model wrote: each program ends, fails as an item, and does nothing outside its process."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdpo.evaluate import sandbox
from sdpo.evaluate.code_execution import code_in, passes


def test_right_code_passes_and_wrong_code_does_not():
    tests = "assert double(4) == 8"
    assert passes("import math, re, collections\ndef double(n): return math.floor(2 * n)", tests)
    assert not passes("def double(n): return n", tests)
    assert not passes("def double(n: return", tests)
    assert not passes("x = '\udc80'", tests)


@pytest.mark.parametrize("program", ["import os\nos._exit(0)", "import sys\nsys.exit(0)", "raise SystemExit"])
def test_a_program_that_ends_before_its_tests_has_not_passed(program):
    assert not passes(program, "assert True")


@pytest.mark.parametrize(
    "program",
    [
        "import time\ntime.sleep(60)",
        "import os\nwhile True:\n    for number in range(3, 9):\n        try: os.write(number, b'x' * 9999)\n"
        "        except OSError: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
)
def test_a_program_without_an_end_is_ended(program):
    started = time.monotonic()
    assert not passes(program, "", seconds=1)
    assert time.monotonic() - started < 10


def test_a_program_that_takes_all_memory_is_ended():
    assert not passes("grown = [bytearray(2**28) for _ in range(64)]", "")
    assert not passes("grown = bytearray(2 * 10**9)", "", size=2**30)
    assert passes("grown = bytearray(10**8)", "")


FORBIDDEN = {
    "socket": "import socket\nsocket.socket()",
    "connection": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
    "file": "open({path!r}, 'w').write('x')",
    "file by number": "import os\nos.open({path!r}, os.O_CREAT | os.O_WRONLY)",
    "file beside it": "open('here', 'w').write('x')",
    "folder": "import os\nos.mkdir({path!r})",
    "removal": "import os\nos.unlink({kept!r})",
    "renaming": "import os\nos.rename({kept!r}, {path!r})",
    "mode": "import os\nos.chmod({kept!r}, 0)",
    "fork": "import os\nos.fork()",
    "program": "import subprocess\nsubprocess.run(['touch', {path!r}])",
    "shell": "import os\nassert os.system('touch ' + {path!r}) == 0",
    "signal": "import os\nos.kill(os.getppid(), 9)",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_program_reaches_nothing_outside(name, tmp_path):
    kept, path = tmp_path / "kept", tmp_path / "made"
    kept.write_text("kept")
    assert not passes(FORBIDDEN[name].format(path=str(path), kept=str(kept)), "")
    assert kept.read_text() == "kept" and kept.stat().st_mode & 0o400 and not path.exists()


def test_a_program_gets_no_variables_of_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert passes("import os", "assert 'HF_TOKEN' not in os.environ")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter is Linux's")
def test_the_kernel_refuses_too_without_the_hook(tmp_path):
    """A program could get around Python's hook, so each of these is tried with the kernel's filter alone."""
    kept, path = tmp_path / "kept", tmp_path / "made"
    kept.write_text("kept")
    lines = [f"import sys; sys.path.insert(0, {str(Path(sandbox.__file__).parent)!r})"]
    lines += ["import sandbox, socket, os, subprocess", "assert sandbox.refuse_system_calls()", "refused = 0"]
    for program in FORBIDDEN.values():
        text = program.format(path=str(path), kept=str(kept))
        lines += [f"try: exec({text!r})", "except (PermissionError, AssertionError): refused += 1"]
        lines += ["except OSError as error: refused += 'Operation not permitted' in str(error)"]
    lines += [f"assert open({str(kept)!r}).read() == 'kept'", "os._exit(refused)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.returncode == len(FORBIDDEN), done.stderr
    assert kept.read_text() == "kept" and not path.exists()


def test_the_code_of_an_answer_is_its_first_block():
    assert code_in("Here:\n```python\na = 1\n```\nand\n```\nb\n```") == "a = 1\n"
    assert code_in("```\na = 1") == "a = 1"
    assert code_in("a = 1") == "a = 1"


@pytest.mark.parametrize(
    "answer",
    [
        "```python3\na = 1\n```\nIt is one.",
        "``` python\na = 1\n```",
        '```python title="a"\na = 1\n```',
        "```python\r\na = 1\r\n```\r\n",
        "1. Like this:\n   ```python\n   a = 1\n   ```",
        "```bash\npip install x\n```\nThen:\n```python\na = 1\n```",
        "```text\n2\n```\nThen:\n```\na = 1\n```",
        "```code\na = 1\n```",
    ],
)
def test_the_code_of_an_answer_is_found_however_its_block_is_written(answer):
    assert code_in(answer).strip() == "a = 1"
