"""Runs the jobs of recorded commands, each in a fork of this process, which has imported what all of them need.

Reads a JSON list of [environment, arguments] from stdin, and writes a list of [exit code, output]. A job runs in the
folder that is PWD in its environment.
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import traceback

import jobs
from sdpo.runtime.launch import main

for module in pkgutil.iter_modules(jobs.__path__):
    job = getattr(importlib.import_module(f"jobs.{module.name}"), "JOB", None)
    for function in filter(None, (job and job.check, job and job.fill)):
        importlib.import_module(function.partition(":")[0])
for name in ("huggingface_hub.file_download", "httpx", "openai", "sqlalchemy", "sdpo.llm.server"):
    importlib.import_module(name)
assert "torch" not in sys.modules  # a process with torch's threads must not fork


def run(environment: dict[str, str], arguments: list[str]) -> tuple[int, str]:
    """Return the exit code and the output of a job with these arguments."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                os.environ.clear()
                os.environ.update(environment)
                os.chdir(environment["PWD"])
                signal.alarm(60)  # ends a job that waits for something
                code = main(sys.modules[arguments[1]].JOB, arguments[2:])
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read()


def run_all(recorded: list[tuple[dict[str, str], list[str]]]) -> list[tuple[int, str]]:
    """Return what came of each call; the same call on several pages is made once, because it changes nothing."""
    done: dict[str, tuple[int, str]] = {}
    keys = []
    for environment, arguments in recorded:
        key = json.dumps([arguments, {**environment, "RECORDS": ""}], sort_keys=True)
        if key not in done:
            done[key] = run(environment, arguments)
        keys.append(key)
    return [done[key] for key in keys]


if __name__ == "__main__":
    json.dump(run_all(json.load(sys.stdin)), sys.stdout)
