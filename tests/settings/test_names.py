"""Settings with several names: MODEL and GPUS mean the same in every job, wherever they are given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sdpo import settings
from sdpo.errors import RunError, SettingError
from sdpo.report.command import command
from sdpo.report.folder import TRAINING, Folder
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import resolve as resolve_module
from sdpo.settings.recorded import under_present_names
from sdpo.tiny import MODEL_DIR
from tests.commands import JOBS, ROOT, clean_environment

MODEL_NAMES = ("model", "model_name_or_path", "base_model")
PROCESS_NAMES = ("world_size", "gpus")
VALUES = {"model": ("org/a", "org/b"), "world_size": ("2", "4")}
WITH_MODEL = [name for name, job in JOBS.items() if "model" in settings.settings_of(job.settings)]
WITH_PROCESSES = [name for name, job in JOBS.items() if "world_size" in settings.settings_of(job.settings)]
CASES = [(job, "model", name) for job in WITH_MODEL for name in MODEL_NAMES]
CASES += [(job, "world_size", name) for job in WITH_PROCESSES for name in PROCESS_NAMES]
KINDS = {"online": settings.OnlineSettings, "offline": settings.OfflineSettings, "audit": settings.AuditSettings}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def resolve(kind, *arguments, environment=None, dotenv=""):
    Path(".env").write_text(dotenv, "utf-8")
    return resolve_module.resolve(kind, arguments, job="a-job", environment=environment or {})


def by_every_path(values):
    """Yield arguments of `resolve` that give these values by flags, words, make's line, the environment and .env."""
    upper = {name.upper(): value for name, value in values.items()}
    words = [f"{name}={value}" for name, value in upper.items()]
    yield [part for name, value in values.items() for part in (settings.flag(name), value)], {}
    yield words, {}
    yield [], {"environment": {resolve_module.MAKE_VARIABLES: " ".join(upper), **upper}}
    yield [], {"environment": upper}
    yield [], {"dotenv": "\n".join(words)}


def test_the_jobs_with_a_model_are_those_that_train_or_look_at_one():
    kinds = ("audit", "chat", "demo_real", "learn", "signal_analysis", "train_", "prep_", "study_real")
    named = {name for name in JOBS if name.removeprefix("jobs.").startswith(kinds)}
    assert named | {"jobs.demo"} == set(WITH_MODEL)
    for job in JOBS.values():
        assert not set(settings.settings_of(job.settings)) & {"model_name_or_path", "base_model", "gpus"}


@pytest.mark.parametrize(("job", "setting", "name"), CASES)
def test_each_name_is_taken_by_every_path(job, setting, name):
    value = VALUES[setting][0]
    for arguments, sources in by_every_path({name: value}):
        resolved = resolve(JOBS[job].settings, *arguments, **sources)
        assert str(getattr(resolved, setting)) == value, (arguments, sources)
        assert setting in settings.given(resolved)


@pytest.mark.parametrize(
    ("kind", "setting", "first", "second"),
    [
        ("online", "model", "model", "model_name_or_path"),
        ("offline", "model", "model", "base_model"),
        ("audit", "model", "model_name_or_path", "base_model"),
        ("online", "world_size", "gpus", "world_size"),
    ],
)
def test_two_names_with_two_values_are_refused_by_every_path(kind, setting, first, second):
    one, other = VALUES[setting]
    for arguments, sources in by_every_path({first: one, second: other}):
        with pytest.raises(SettingError) as caught:
            resolve(KINDS[kind], *arguments, **sources)
        message = str(caught.value)
        assert f"{first.upper()}={one}" in message and f"{second.upper()}={other}" in message
        assert f"one setting, {setting.upper()}, with two values" in message and "\n" not in message
    for arguments, sources in by_every_path({first: one, second: one}):
        assert str(getattr(resolve(KINDS[kind], *arguments, **sources), setting)) == one


def test_a_source_of_higher_precedence_decides_whatever_the_name():
    dotenv = "MODEL_NAME_OR_PATH=org/a\nBASE_MODEL=org/b\n"
    names = {"BASE_MODEL": "org/c"}
    assert resolve(settings.AuditSettings, "--model", "org/d", environment=names, dotenv=dotenv).model == "org/d"
    assert resolve(settings.AuditSettings, environment=names, dotenv=dotenv).model == "org/c"


def test_in_dotenv_the_name_of_another_job_yields_to_the_jobs_own():
    lines = ["BASE_MODEL=org/offline", "MODEL_NAME_OR_PATH=org/online"]
    for text in ("\n".join(lines), "\n".join(reversed(lines))):
        assert resolve(settings.OnlineSettings, dotenv=text).model == "org/online"
        assert resolve(settings.OfflineSettings, dotenv=text).model == "org/offline"
    assert resolve(settings.AuditSettings, dotenv="MODEL=org/own\nBASE_MODEL=org/offline").model == "org/own"


@pytest.mark.parametrize("old", ["model_name_or_path", "base_model"])
def test_a_run_that_recorded_an_earlier_name_is_resumed_reported_and_repeated(old, tmp_path):
    now = settings.redacted(resolve(settings.OnlineSettings, f"--{old.replace('_', '-')}", "org/a"))
    recorded = {old if name == "model" else name: value for name, value in now.items()}
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    written = {"job": "train-online-tldr", "settings": recorded, "given": {old: "org/a"}}
    run.write_json("run.json", written)
    assert run.check(now) == "continued"
    with pytest.raises(RunError, match=r"MODEL=org/a, now it is MODEL=org/b"):
        run.check({**now, "model": "org/b"})
    assert command(Folder(run.path, TRAINING), written) == "make train-online-tldr MODEL=org/a"
    assert under_present_names(recorded) == now


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MODEL", "MODEL_NAME_OR_PATH", "BASE_MODEL"])
def test_make_shows_the_resolved_model_whatever_its_name(name, tmp_path):
    words = ["make", "-s", "train-offline", f"PYTHON={sys.executable}", "TINY=1", "DRY_RUN=1", f"{name}={MODEL_DIR}"]
    done = subprocess.run(words, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("MODEL "))
    assert row == ["MODEL", str(MODEL_DIR), "Make", "variable"]


def test_the_containers_get_every_name_of_every_setting():
    script = (ROOT / "docker" / "compose.sh").read_text("utf-8")
    listed = next(line for line in script.splitlines() if "for name in $settings" in line).split()
    example = {line.lstrip("# ").partition("=")[0] for line in (ROOT / ".env.example").read_text("utf-8").splitlines()}
    declared = [declared for job in JOBS.values() for declared in settings.settings_of(job.settings).values()]
    names = {name.upper() for item in declared for name in item.names}
    assert names <= example | set(listed), json.dumps(sorted(names - example - set(listed)))
