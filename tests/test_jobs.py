"""Every job's command line, and how a job's processes are launched and ended."""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import jobs
from sdpo import launch, processes, settings
from sdpo.resolve import MAKE_VARIABLES, resolve

ROOT = Path(__file__).parents[1]
SECRET = "s3cr3t-value-nobody-may-see"

MODULES = [f"jobs.{found.name}" for found in pkgutil.iter_modules(jobs.__path__)]
JOBS = {name: module.JOB for name in MODULES if hasattr(module := importlib.import_module(name), "JOB")}

# Says on its last line of stderr which heavy modules a job's command line has pulled in.
PROBE = """
import atexit, runpy, sys
heavy = ("torch", "transformers", "trl", "datasets", "accelerate")
atexit.register(lambda: print("HEAVY", *[name for name in heavy if name in sys.modules], file=sys.stderr))
module = sys.argv.pop(1)
sys.argv[0] = module
runpy.run_module(module, run_name="__main__")
"""


def clean_environment(**extra):
    """This environment without what would be taken for settings, or for a launcher's."""
    ours = {name.upper() for name in settings.known_names()}
    ours |= {MAKE_VARIABLES, processes.WORKER, processes.EXIT_FILE, "LOCAL_RANK", "RANK"}
    ours |= {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | extra


def start(module, *arguments, cwd, **environment):
    command = [sys.executable, "-c", PROBE, module, *arguments]
    return subprocess.run(command, cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True)


def heavy(result):
    return next(line for line in reversed(result.stderr.splitlines()) if line.startswith("HEAVY")).split()[1:]


@pytest.mark.parametrize("module", JOBS)
def test_help_names_every_setting_and_is_cheap(module, tmp_path):
    result = start(module, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert heavy(result) == []
    for declared in settings.settings_of(JOBS[module].settings).values():
        assert declared.name.upper() in result.stdout


@pytest.mark.parametrize("module", JOBS)
def test_a_dry_run_shows_everything_but_secrets_and_writes_nothing(module, tmp_path):
    secrets = dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY", "ANTHROPIC_API_KEY"), SECRET)
    result = start(module, cwd=tmp_path, TINY="1", DRY_RUN="1", **secrets)
    assert result.returncode == 0, result.stderr
    assert heavy(result) == []
    assert list(tmp_path.iterdir()) == []
    assert SECRET not in result.stdout + result.stderr
    for declared in settings.settings_of(JOBS[module].settings).values():
        assert declared.name.upper() in result.stdout


@pytest.mark.parametrize("module", JOBS)
def test_a_wrong_flag_is_one_line_and_a_code_of_its_own(module, tmp_path):
    result = start(module, "--no-such-thing", cwd=tmp_path)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if not line.startswith("HEAVY")]
    assert len(lines) == 1 and "--no-such-thing" in lines[0]


@pytest.mark.parametrize("module", JOBS)
def test_a_job_has_the_settings_it_gives_values_to(module):
    job = JOBS[module]
    declared = settings.settings_of(job.settings)
    assert set(job.defaults) | set(job.tiny) <= set(declared)
    assert job.module_name == module
    for reference in filter(None, (job.run, job.check, job.fill, job.become)):
        name, function = reference.split(":")
        assert callable(getattr(importlib.import_module(name), function))


def test_the_tldr_job_starts_from_the_published_settings():
    job = JOBS["jobs.train_online_tldr"]
    found = resolve(job.settings, [], job=job.name, defaults=job.defaults, environment={}, dotenv=Path("none"))
    expected = {
        "model_name_or_path": "Qwen/Qwen3-4B",
        "user_model_name_or_path": "Qwen/Qwen3-4B",
        "style": "concise_casual_beginner",
        "lr": 5e-6,
        "bs": 4,
        "ga": 1,
        "world_size": 4,
        "train_n": 256,
        "max_prompt_tokens": 512,
        "max_completion_tokens": 258,
        "teacher": "live",
        "objective": "token",
        "resume": "auto",
        "save_limit": None,
        "seed": 42,
    }
    assert {name: getattr(found, name) for name in expected} == expected


# A job of our own, light enough to be started for real.

FAKE_JOB = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from sdpo.errors import SdpoError, ServerError
from sdpo.launch import Job, main
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
        state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU") == "true")
        (settings.output_dir / f"rank-{rank}").write_text(f"{state.process_index} of {state.num_processes}")
        state.destroy_process_group()
    if settings.behaviour == "fail" and rank in ("none", "1"):
        raise ServerError("the user went away")
    if settings.behaviour == "full":
        raise OSError(28, "No space left on device", "somewhere")
    if settings.behaviour == "fault":
        raise RuntimeError("a fault of ours")
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
    """Return a function that starts the fake job in a folder of its own."""
    (tmp_path / "fake_job.py").write_text(textwrap.dedent(FAKE_JOB))

    def command(*arguments):
        return [sys.executable, "-m", "fake_job", "--run-id", "r", *arguments]

    def run(*arguments, **environment):
        return subprocess.run(
            command(*arguments), cwd=tmp_path, env=clean_environment(**environment), capture_output=True, text=True
        )

    run.command, run.folder = command, tmp_path / "runs" / "fake" / "r"
    return run


def test_one_process_runs_in_place_without_a_world_size(fake):
    result = fake(WORLD_SIZE="1")
    assert result.returncode == 0, result.stderr
    assert (fake.folder / "rank-none").read_text() == "none r 1 None"


@pytest.mark.parametrize(("behaviour", "code"), [("fail", 3), ("full", 1), ("seven", 7)])
def test_what_ends_a_job_is_its_exit_code_and_at_most_one_line(fake, behaviour, code):
    result = fake("--behaviour", behaviour)
    assert result.returncode == code
    assert len(result.stderr.splitlines()) == (0 if behaviour == "seven" else 1)


def test_a_fault_of_ours_keeps_its_traceback(fake):
    result = fake("--behaviour", "fault")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_job_after_it_has_cleaned_up(fake, tmp_path, number, code):
    process = subprocess.Popen(
        fake.command("--behaviour", "wait"), cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (fake.folder / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert (fake.folder / "cleaned").exists()
    assert "Traceback" not in errors


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    job = launch.Job(name="fake", summary="", settings=settings.JobSettings, folder="fake", run="x:y")
    folders = set()
    for _ in range(3):
        named = settings.JobSettings(
            run_id="20260101-000000", output_dir=tmp_path / "20260101-000000", sources={"run_id": "date"}
        )
        folders.add(launch._claim(named, job).output_dir)
    assert len(folders) == 3 and all(folder.is_dir() for folder in folders)


def _plan(output):
    return output[output.index("accelerate.commands.launch") :].split()


def test_the_launch_line_has_the_shipped_file_or_the_users_own(fake, tmp_path):
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


def test_shipped_accelerate_files_are_there():
    assert processes.DDP.is_file() and processes.DDP_CPU.is_file()


def test_two_processes_start_find_each_other_and_hand_on_their_exit_code(fake, tmp_path):
    """The one slow test here: the real launcher, over gloo on the CPU."""
    result = fake("--gpus", "2", "--behaviour", "gloo", CUDA_VISIBLE_DEVICES="", WORLD_SIZE="5")
    assert result.returncode == 0, result.stderr
    assert {file.read_text() for file in fake.folder.glob("rank-*")} == {"0 of 2", "1 of 2"}
    failed = fake("--gpus", "2", "--behaviour", "fail", CUDA_VISIBLE_DEVICES="")
    assert failed.returncode == 3
    assert failed.stderr.splitlines()[-1].startswith("error:")


# The simulated user's server


class FakeServer:
    """Stands in for the server module and keeps what it was asked."""

    def __init__(self):
        self.checked, self.served, self.stopped = [], [], 0

    def check_health(self, url, model=None):
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
    """Return a function that runs an online job whose work and whose server are stand-ins."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    server, seen = FakeServer(), []
    monkeypatch.setattr(launch, "_server", lambda: server)
    work = {"check": lambda settings, job: None, "run": lambda settings, job: seen.append(settings)}
    monkeypatch.setattr(launch, "_load", lambda reference: work[reference])

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

    def fault(settings, job):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        online(run=fault)
    assert len(online.server.served) == online.server.stopped == 2
    # The run's folder holds nothing of ours: it is the run's own.
    assert list(online.seen[0].output_dir.iterdir()) == []


def test_a_server_that_is_there_is_asked_first_and_none_is_started(online, capsys):
    url = "http://127.0.0.1:2/v1"
    assert online("--simulator-url", url) == 0
    assert online("--simulator-url", url, "--dry-run") == 0
    assert online.server.checked == [url, url]
    assert online.server.served == []
    assert [found.simulator_url for found in online.seen] == [url]


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
def test_the_server_gets_the_first_free_gpu_or_a_share_of_the_last(online, monkeypatch, gpus, arguments, gpu, shared):
    monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(gpus))
    assert online(*arguments) == 0
    options = online.server.served[0][1]
    assert options["gpu"] == gpu
    assert (options["memory_share"] is not None) == shared
    # transformers would spread one process over all it sees.
    assert os.environ["CUDA_VISIBLE_DEVICES"] == (gpus[0] if gpus else "")


def test_more_processes_than_gpus_are_refused_before_anything_starts(online, monkeypatch, capsys):
    monkeypatch.setattr(processes, "visible_gpus", lambda: ["0", "1"])
    assert online("--gpus", "3") == 2
    assert online.server.served == []
    assert "GPUS=2" in capsys.readouterr().err


def test_names_of_gpus_that_are_not_there_do_not_mean_the_cpu(online, monkeypatch, capsys):
    monkeypatch.setattr(processes, "installed_gpus", lambda: ["0"])
    for shown, code in (("1,2", 2), ("0", 0), ("", 0), ("-1", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert online("--gpus", "1") == code
        assert ("CUDA_VISIBLE_DEVICES=1,2" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(None, "0 1 2"), ("", ""), ("-1", ""), ("2,0", "2 0"), ("1,7,0", "1"), ("GPU-abc", "GPU-abc")],
)
def test_gpus_are_counted_as_cuda_shows_them(monkeypatch, tmp_path, shown, expected):
    tool = tmp_path / "nvidia-smi"
    lines = "".join(f"GPU {index}: NVIDIA (UUID: GPU-{index})\n  MIG 1g (UUID: MIG-{index})\n" for index in range(3))
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert processes.visible_gpus() == expected.split()


def test_processes_of_another_launcher_must_be_told_what_they_share(online, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert online() == 2
    message = capsys.readouterr().err
    assert "RUN_ID" in message and "SIMULATOR_URL" in message
    assert online("--run-id", "r", "--simulator-url", "http://127.0.0.1:2/v1") == 0
    assert os.environ["WORLD_SIZE"] == "1"


def test_world_size_is_forgotten_except_under_a_launcher():
    alone, launched = {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "4", "LOCAL_RANK": "0"}
    processes.forget_world_size(alone)
    processes.forget_world_size(launched)
    assert alone == {}
    assert launched == {"WORLD_SIZE": "4", "LOCAL_RANK": "0"}


# Make


def make(*arguments, **environment):
    command = ["make", "-s", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(**environment), capture_output=True, text=True)


@pytest.fixture
def stand_in(tmp_path):
    """Return a function that makes an interpreter which only says variables of its environment and its arguments."""

    def write(*names):
        program = tmp_path / "python"
        values = " ".join(f'"${name}"' for name in names)
        program.write_text(f'#!/bin/sh\nprintf "%s|" {values} "$*"\n')
        program.chmod(0o755)
        return f"PYTHON={program}"

    return write


def test_make_hands_values_on_whole_and_names_what_it_was_given(stand_in):
    python = stand_in(MAKE_VARIABLES, "STYLE_FILE", "BS")
    result = make("train-online-tldr", python, "STYLE_FILE=my 'own' \"styles\".json", BS="3")
    names, style_file, size, arguments, _ = result.stdout.split("|")
    assert set(names.split()) == {"PYTHON", "STYLE_FILE"}
    assert style_file == "my 'own' \"styles\".json"
    assert (size, arguments) == ("3", "-m jobs.train_online_tldr")


def test_make_lists_every_job():
    result = make()
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ") and line.split()}
    assert {job.name for job in JOBS.values()} <= listed


@pytest.mark.parametrize(
    ("variables", "environment", "style"),
    [
        ([], {}, "no_emojis"),
        ([], {"STYLE": "plain"}, "plain"),
        (["STYLE=short", "SEED=3"], {"STYLE": "plain"}, "short"),
    ],
)
def test_the_demo_is_the_tldr_job_made_tiny_and_takes_settings(stand_in, variables, environment, style):
    result = make("demo", stand_in("TINY", "STYLE", "SEED"), *variables, **environment)
    seed = "3" if variables else ""
    assert result.stdout.split("|")[:-1] == ["1", style, seed, "-m jobs.train_online_tldr"]


def test_make_says_in_one_line_why_it_cannot_start():
    result = make("test", "PYTHON=no-such-python")
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error:") and "no-such-python" in line]
