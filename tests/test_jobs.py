"""The command line of every job: help, dry run, errors, default settings, and the Makefile."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import demo_real
from sdpo import settings
from sdpo.errors import SdpoError
from sdpo.settings.resolve import MAKE_VARIABLES, resolve
from sdpo.tiny import MODEL_DIR
from tests.commands import JOBS, ROOT, clean_environment

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-value-that-must-not-appear"

# Prints on the last line of stderr which heavy modules a job's command line has imported.
PROBE = """
import atexit, runpy, sys
heavy = ("torch", "transformers", "trl", "datasets", "accelerate")
atexit.register(lambda: print("HEAVY", *[name for name in heavy if name in sys.modules], file=sys.stderr))
module = sys.argv.pop(1)
sys.argv[0] = module
runpy.run_module(module, run_name="__main__")
"""


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
def test_a_dry_run_shows_all_settings_but_no_secrets_and_writes_nothing(module, tmp_path):
    secrets = dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY", "ANTHROPIC_API_KEY"), SECRET)
    result = start(module, cwd=tmp_path, TINY="1", DRY_RUN="1", **secrets)
    assert result.returncode == 0, result.stderr
    assert heavy(result) == []
    assert list(tmp_path.iterdir()) == []
    assert SECRET not in result.stdout + result.stderr
    for declared in settings.settings_of(JOBS[module].settings).values():
        assert declared.name.upper() in result.stdout


@pytest.mark.parametrize("module", JOBS)
def test_a_wrong_flag_prints_one_line_and_exits_with_2(module, tmp_path):
    result = start(module, "--no-such-thing", cwd=tmp_path)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if not line.startswith("HEAVY")]
    assert len(lines) == 1 and "--no-such-thing" in lines[0]


@pytest.mark.parametrize("module", JOBS)
def test_job_defaults_and_functions_exist(module):
    job = JOBS[module]
    declared = settings.settings_of(job.settings)
    assert set(job.defaults) | set(job.tiny) <= set(declared)
    assert job.module_name == module
    for reference in filter(None, (job.run, job.check, job.fill, job.become, job.report)):
        name, function = reference.split(":")
        assert callable(getattr(importlib.import_module(name), function))


def test_the_tldr_job_starts_from_the_published_settings():
    job = JOBS["jobs.train_online_tldr"]
    resolved = resolve(job.settings, [], job=job.name, defaults=job.defaults, environment={}, dotenv=Path("none"))
    expected = {
        "model": "Qwen/Qwen3-4B",
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
    assert {name: getattr(resolved, name) for name in expected} == expected


# Make


def make(*arguments, **environment):
    command = ["make", "-s", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(**environment), capture_output=True, text=True)


@pytest.fixture
def fake_python(tmp_path):
    """Return a function that creates an interpreter which only prints environment variables and its arguments."""

    def write(*names):
        program = tmp_path / "python"
        values = " ".join(f'"${name}"' for name in names)
        program.write_text(f'#!/bin/sh\nprintf "%s|" {values} "$*"\n')
        program.chmod(0o755)
        return f"PYTHON={program}"

    return write


def test_make_passes_values_on_unchanged_and_lists_its_variables(fake_python):
    python = fake_python(MAKE_VARIABLES, "STYLE_FILE", "BS")
    result = make("train-online-tldr", python, "STYLE_FILE=my 'own' \"styles\".json", BS="3")
    names, style_file, size, arguments, _ = result.stdout.split("|")
    assert set(names.split()) == {"PYTHON", "STYLE_FILE"}
    assert style_file == "my 'own' \"styles\".json"
    assert (size, arguments) == ("3", "-m jobs.train_online_tldr")


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (["train-online-tdlr"], " Did you mean train-online-tldr?"),
        (["-n", "evall", "DOCKER=1"], " Did you mean eval?"),
        (["zzzz"], ""),
        (["z'zz"], ""),
    ],
)
def test_a_mistyped_target_is_one_line_with_the_nearest(words, question):
    result = make(*words)
    name = next(word for word in words if word != "-n")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.endswith(f"There is no target {name}.{question} `make help` lists all.  Stop.\n")
    assert len(result.stderr.splitlines()) == 1


def test_a_file_is_no_mistyped_target():
    assert make("README.md").returncode == 0 and make("-n", "clean").stdout.startswith("rm -rf")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a folder with what make setup reads, and a python3 that does nothing."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    write_program(tmp_path / "path" / "python3", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def write_program(path, line):
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("works", [True, False])
def test_make_setup_leaves_an_environment_alone_that_is_linked_to(checkout, works):
    if works:
        write_program(checkout / "other" / "bin" / "python", "exit 0")
    (checkout / ".venv").symlink_to("other")
    result = make("-C", str(checkout), "setup")
    remove = f"Set PYTHON={checkout / 'other'}/bin/python to use what is there, or remove" if works else "Remove"
    expected = f"error: .venv is a link to other, where make setup installs nothing. {remove} the link (rm .venv) and"
    assert result.returncode == 2 and result.stderr.startswith(expected)
    assert not (checkout / "other" / ".installed").exists()


def test_make_setup_says_that_an_environment_of_another_machine_has_to_go(checkout):
    write_program(checkout / ".venv" / "bin" / "python", "exit 127")
    result = make("-C", str(checkout), "setup")
    assert result.returncode == 2 and "error: .venv comes from elsewhere" in result.stderr
    assert "Remove it (rm -r .venv), then run make setup again." in result.stderr


def test_make_lists_every_job():
    result = make()
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ") and line.split()}
    assert {job.name for job in JOBS.values()} <= listed


@pytest.mark.parametrize(
    ("variables", "environment", "style"),
    [
        ([], {}, ""),
        ([], {"STYLE": "plain"}, "plain"),
        (["STYLE=short", "SEED=3"], {"STYLE": "plain"}, "short"),
    ],
)
def test_the_demo_takes_settings(fake_python, variables, environment, style):
    result = make("demo", fake_python("STYLE", "SEED"), *variables, **environment)
    seed = "3" if variables else ""
    assert result.stdout.split("|")[:-1] == [style, seed, "-m jobs.demo"]


def test_the_demo_on_a_real_model_writes_its_prompts_unless_they_are_there_or_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job, prompts = demo_real.JOB, Path("data/english_prompts/train.jsonl")

    def check(*words):
        given = [*words, "--model", str(MODEL_DIR), "STYLE=no_emojis", "GPUS=1", "OUTPUT_DIR=run"]
        resolved = resolve(job.settings, given, job=job.name, defaults=job.defaults, tiny=job.tiny, environment={})
        demo_real.check(resolved, job)

    for words in (["--dry-run"], ["--data-path", str(tmp_path)]):
        with pytest.raises(SdpoError, match=r"train\.jsonl does not exist"):
            check(*words)
        assert not prompts.exists()
    check()
    written = prompts.stat().st_mtime_ns
    check()
    assert prompts.stat().st_mtime_ns == written and len(prompts.read_text("utf-8").splitlines()) > 240


def test_make_prints_one_line_for_a_missing_interpreter():
    result = make("test", "PYTHON=no-such-python")
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("error:") and "no-such-python" in line]
