"""Starting and ending a job: processes, exit codes, signals, GPUs, and the simulated user's server."""

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sdpo import settings
from sdpo.errors import RunError
from sdpo.runtime import launch, processes, user_server
from sdpo.runtime.launch import check_writable
from tests.commands import JOBS, ROOT, clean_environment
from tests.gpus import pretend_gpus

pytestmark = pytest.mark.slow

# A job that is light enough to be started as a real process.

FAKE_JOB = """
import atexit, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from sdpo.errors import SdpoError, ServerError
from sdpo.runtime.launch import Job, main
from sdpo.settings import LaunchSettings, setting

@dataclass(frozen=True, kw_only=True)
class FakeSettings(LaunchSettings):
    '''The fake job.'''
    behaviour: str = setting("write", "what to do")

JOB = Job(name="fake", summary="a fake", settings=FakeSettings, folder="fake", run="fake_job:run", module="fake_job")

def run(settings, job):
    rank = os.environ.get("RANK", "none")
    if settings.behaviour == "write":
        words = [rank, settings.run_id, settings.world_size, os.environ.get("WORLD_SIZE")]
        (settings.output_dir / f"rank-{rank}").write_text(" ".join(map(str, words)))
    if settings.behaviour == "gloo":
        from accelerate import PartialState
        from torch import distributed
        state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true")
        (settings.output_dir / f"rank-{rank}").write_text(f"{state.process_index} of {state.num_processes}")
        left = settings.output_dir / f"left-{rank}"
        atexit.register(lambda: left.write_text("no" if distributed.is_initialized() else "yes"))
    if settings.behaviour == "fail" and rank in ("none", "1") or settings.behaviour == "fail everywhere":
        raise ServerError("the user does not respond")
    if settings.behaviour == "killed" and rank == "1":
        os.kill(os.getpid(), 9)
    if settings.behaviour == "full":
        (settings.output_dir / "checkpoint-4").mkdir()
        (settings.output_dir / "checkpoint-4" / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")
    if settings.behaviour == "fault":
        raise RuntimeError("a bug")
    if settings.behaviour == "wait":
        (settings.output_dir / "waiting").write_text(str(os.getpid()))
        try:
            time.sleep(60)
        finally:
            (settings.output_dir / "cleaned").write_text("")
    return 7 if settings.behaviour == "seven" else None

if __name__ == "__main__":
    raise SystemExit(main(JOB))
"""


@pytest.fixture
def fake(tmp_path):
    """Return a function that runs the fake job in a temporary folder."""
    (tmp_path / "fake_job.py").write_text(textwrap.dedent(FAKE_JOB))

    def command(*arguments):
        return [sys.executable, "-m", "fake_job", "--run-id", "r", *arguments]

    def run(*arguments, **environment):
        return subprocess.run(
            command(*arguments), cwd=tmp_path, env=clean_environment(**environment), capture_output=True, text=True
        )

    run.command, run.folder = command, tmp_path / "runs" / "fake" / "r"
    return run


def test_a_single_process_runs_without_a_launcher_and_without_world_size(fake):
    result = fake(WORLD_SIZE="1")
    assert result.returncode == 0, result.stderr
    assert (fake.folder / "rank-none").read_text() == "none r 1 None"


@pytest.mark.parametrize(("behaviour", "code"), [("fail", 3), ("full", 1), ("seven", 7)])
def test_an_error_sets_the_exit_code_and_prints_at_most_one_line(fake, behaviour, code):
    result = fake("--behaviour", behaviour)
    assert result.returncode == code
    assert len(result.stderr.splitlines()) == (0 if behaviour == "seven" else 1)


def test_a_full_disk_is_named_with_its_free_space_and_leaves_no_half_checkpoint(fake):
    error = fake("--behaviour", "full").stderr
    assert re.fullmatch(
        rf"error: the disk is full: {re.escape(str(fake.folder))}, where [\d,]+\.\d MB are free\. Free some space, or "
        r"choose another OUTPUT_DIR or SCRATCH\.\n",
        error,
    ), error
    assert not (fake.folder / "checkpoint-4").exists()


def test_a_file_in_place_of_the_run_s_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunError, match=rf"^{re.escape(str(file))} is a file, not a folder\. Choose another OUTPUT_DIR"):
        check_writable(file, "OUTPUT_DIR")
    with pytest.raises(RunError, match=rf"run cannot be created: {re.escape(str(file))} is a file, not a folder"):
        check_writable(file / "run", "OUTPUT_DIR")
    check_writable(tmp_path / "new" / "run", "OUTPUT_DIR")


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path):
    command = [sys.executable, "-m", "jobs.prep_english", "--out-dir", str(tmp_path / ("x" * 300))]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"error: OUT_DIR={command[-1]}")
    assert line.endswith("File name too long. Give a path that exists or can be created.")


def test_a_place_that_is_not_allowed_is_named_with_its_setting(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"

    def refuse(settings, job):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(page))

    monkeypatch.setattr("sdpo.report.job.run", refuse)
    job = dataclasses.replace(JOBS["jobs.report"], check=None)
    assert launch.main(job, ["--run-dir", str(tmp_path), "--report-file", str(page)]) == 1
    line = f"error: REPORT_FILE={page}: Permission denied. Allow it, or choose another place.\n"
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback(fake):
    result = fake("--behaviour", "fault")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_job_after_cleanup(fake, tmp_path, number, code):
    process = subprocess.Popen(
        fake.command("--behaviour", "wait"), cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a background process of a shell ignores SIGINT
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (fake.folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert (fake.folder / "cleaned").exists()
    assert "Traceback" not in errors


def test_runs_started_in_the_same_second_get_different_directories(tmp_path):
    job = launch.Job(name="fake", summary="", settings=settings.JobSettings, folder="fake", run="x:y")
    folders = set()
    for _ in range(3):
        named = settings.JobSettings(
            run_id="20260101-000000", output_dir=tmp_path / "20260101-000000", sources={"run_id": "date"}
        )
        folders.add(launch._create_run_folder(named, job).output_dir)
    assert len(folders) == 3 and all(folder.is_dir() for folder in folders)


def _plan(output):
    return output[output.index("sdpo.runtime.launcher") :].split()


def test_the_launch_command_has_the_shipped_config_or_the_users_own(fake, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("distributed_type: FSDP\nnum_processes: 6\n")
    shipped = _plan(fake("--dry-run", GPUS="2", CUDA_VISIBLE_DEVICES="").stdout)
    assert str(processes.DDP_CPU) in shipped
    assert shipped[shipped.index("--num_processes") + 1] == "2"
    plain = fake("--dry-run", ACCELERATE_CONFIG="own.yaml")
    planned = _plan(plain.stdout)
    assert planned[planned.index("--num_processes") + 1] == "6"
    assert "own.yaml" in _plan(plain.stdout)
    assert next(line.split()[1] for line in plain.stdout.splitlines() if line.startswith("WORLD_SIZE")) == "6"
    both = _plan(fake("--dry-run", ACCELERATE_CONFIG="own.yaml", GPUS="2").stdout)
    assert both[both.index("--num_processes") + 1] == "2"
    assert not fake.folder.exists()


def test_two_processes_start_connect_and_pass_on_their_exit_code(fake, tmp_path):
    """The only slow test here: the real launcher, with gloo on the CPU. Failures print no launcher traceback."""
    result = fake("--gpus", "2", "--behaviour", "gloo", CUDA_VISIBLE_DEVICES="", WORLD_SIZE="5")
    assert result.returncode == 0, result.stderr
    assert {file.read_text() for file in fake.folder.glob("rank-*")} == {"0 of 2", "1 of 2"}
    assert [file.read_text() for file in fake.folder.glob("left-*")] == ["yes", "yes"]
    failed = fake("--gpus", "2", "--behaviour", "fail", CUDA_VISIBLE_DEVICES="")
    assert failed.returncode == 3
    assert [line for line in failed.stderr.splitlines() if line.startswith("error:")] == failed.stderr.splitlines()[-1:]
    everywhere = fake("--gpus", "2", "--behaviour", "fail everywhere", CUDA_VISIBLE_DEVICES="")
    assert everywhere.returncode == 3
    assert everywhere.stderr.count("the user does not respond") == 1 and "Traceback" not in everywhere.stderr
    killed = fake("--gpus", "2", "--behaviour", "killed", CUDA_VISIBLE_DEVICES="")
    assert killed.returncode == 1
    assert "process 1" in killed.stderr and "SIGKILL" in killed.stderr and "Traceback" not in killed.stderr


# The simulated user's server


class FakeServer:
    """A fake of the server module that records its calls."""

    def __init__(self):
        self.checked, self.served, self.stopped = [], [], 0

    def check_health(self, url, *models, api_key=None, wait=0.0):
        self.checked.append(url)

    def serve(self, model, **options):
        from contextlib import contextmanager

        @contextmanager
        def block():
            self.served.append((model, options))
            try:
                yield "http://127.0.0.1:1/v1"
            finally:
                self.stopped += 1

        return block()


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Return a function that runs an online job with a fake `run` function and a fake server."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    server, seen = FakeServer(), []
    for module in (launch, user_server):
        monkeypatch.setattr(module, "server", lambda: server)
    work = {"check": lambda settings, job: None, "run": lambda settings, job: seen.append(settings)}
    monkeypatch.setattr(launch, "load", lambda reference: work[reference])

    def run(*arguments, **changed):
        work.update(changed)
        job = launch.Job(
            name="online",
            summary="",
            settings=settings.OnlineSettings,
            folder="online",
            run="run",
            check="check",
            needs_simulator=True,
        )
        return launch.main(job, arguments)

    run.server, run.seen = server, seen
    return run


def test_a_server_is_started_for_the_job_and_always_stopped(online):
    assert online() == 0
    assert online.seen[0].simulator_url == "http://127.0.0.1:1/v1"

    def fail(settings, job):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        online(run=fail)
    assert len(online.server.served) == online.server.stopped == 2
    # The launcher writes nothing to the run directory.
    assert list(online.seen[0].output_dir.iterdir()) == []


def test_a_given_server_is_checked_and_none_is_started(online, capsys):
    url = "http://127.0.0.1:2/v1"
    assert online("--simulator-url", url) == 0
    assert online("--simulator-url", url, "--dry-run") == 0
    assert online.server.checked == [url, url]
    assert online.server.served == []
    assert [given.simulator_url for given in online.seen] == [url]


@pytest.mark.parametrize(
    ("gpus", "arguments", "gpu", "shared"),
    [
        ([], [], "", False),
        (["0"], [], "0", True),
        (["0", "1"], [], "1", False),
        (["4", "5", "6"], [], "5", False),
        (["0", "1"], ["--simulator-gpu", "0"], "0", True),
    ],
)
def test_the_server_gets_the_first_free_gpu_or_shares_the_last(online, monkeypatch, gpus, arguments, gpu, shared):
    monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(gpus))
    assert online(*arguments) == 0
    options = online.server.served[0][1]
    assert options["gpu"] == gpu
    assert (options["memory_share"] is not None) == shared
    # transformers would spread one process over all visible GPUs.
    assert os.environ["CUDA_VISIBLE_DEVICES"] == (gpus[0] if gpus else "")


def test_more_processes_than_gpus_are_rejected_before_anything_starts(online, monkeypatch, capsys):
    monkeypatch.setattr(processes, "visible_gpus", lambda: ["0", "1"])
    assert online("--gpus", "3") == 2
    assert online.server.served == []
    assert "GPUS=2" in capsys.readouterr().err


def test_several_processes_without_a_gpu_are_refused_before_anything_starts(online, monkeypatch, capsys):
    monkeypatch.setattr(processes, "installed_gpus", lambda: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def fail(settings, job):
        raise AssertionError("the check of GPUs comes first")

    given = (["--gpus", "4"], ["--world-size", "2"])
    for arguments in given:
        assert online(*arguments, check=fail) == 2
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1
        assert f"GPUS={arguments[1]} (from the flag --gpus), but this machine has no GPU" in message
        assert "GPUS=1" in message and "TINY=1" in message
        # A dry run may be of settings for another machine.
        assert online(*arguments, "--dry-run", check=lambda settings, job: None) == 0
        assert f"note: {message.removeprefix('error: ')}" in capsys.readouterr().out
    assert not online.server.served and not online.seen
    allowed = ([], ["--gpus", "1"], ["--gpus", "2", "--tiny"])
    for arguments in allowed:
        assert online(*arguments, "--dry-run", check=lambda settings, job: None) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the CPU, on purpose
    assert online("--gpus", "2", "--dry-run") == 0


@pytest.mark.parametrize("module", [name for name, job in JOBS.items() if job.defaults.get("world_size", 1) > 1])
def test_the_defaults_of_every_job_are_refused_without_a_gpu(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(processes, "installed_gpus", lambda: [])
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    assert launch.main(JOBS[module], []) == 2
    error = capsys.readouterr().err
    assert "GPUS=4 (from the job's defaults)" in error and "TINY=1" in error and not list(tmp_path.iterdir())


def test_names_of_missing_gpus_do_not_mean_the_cpu(online, monkeypatch, capsys):
    monkeypatch.setattr(processes, "installed_gpus", lambda: ["0"])
    for shown, code in (("1,2", 2), ("0", 0), ("", 0), ("-1", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert online("--gpus", "1") == code
        assert ("CUDA_VISIBLE_DEVICES=1,2" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(None, "0 1 2"), ("", ""), ("-1", ""), ("2,0", "2 0"), ("1,7,0", "1"), ("GPU-abc", "GPU-abc")],
)
def test_visible_gpus_follow_the_rules_of_cuda(monkeypatch, tmp_path, shown, expected):
    pretend_gpus(monkeypatch, tmp_path, [80_000] * 3)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert processes.visible_gpus() == expected.split()


def test_processes_of_another_launcher_need_the_shared_settings(online, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert online() == 2
    message = capsys.readouterr().err
    assert "RUN_ID" in message and "SIMULATOR_URL" in message
    assert online("--run-id", "r", "--simulator-url", "http://127.0.0.1:2/v1") == 0
    assert os.environ["WORLD_SIZE"] == "1"


def test_world_size_is_removed_except_under_a_launcher():
    alone, launched = {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    processes.drop_world_size(alone)
    processes.drop_world_size(launched)
    assert alone == {}
    assert launched == {"WORLD_SIZE": "4", "LOCAL_RANK": "0"}
