"""The package as others get it: built from the source archive, installed, and used where no repository is around it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from tests.commands import ROOT, clean_environment

pytestmark = pytest.mark.slow

# What the source archive has beside the two packages.
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md")
FILES += ("requirements.lock", ".env.example")
BUILT = ("PKG-INFO", "setup.cfg")
LEFT_OUT = {"__pycache__", ".tokenized"}  # what runs leave in a checkout


def run(*words, cwd, **environment):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=clean_environment(WANDB_MODE="offline", **environment),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-30:])
    return done.stdout


def sources(folder: Path) -> set[str]:
    """Return the files of both packages in a folder."""
    found = [path for name in ("sdpo", "jobs") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)) for path in found if not LEFT_OUT & set(path.parts)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with the source archive, unpacked, and with the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in ("sdpo", "jobs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").write_text("")  # setuptools would take it along
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    build = ("wheel", *offline, "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", *build, unpacked, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", *offline, "--target", folder / "installed", wheel, cwd=folder)
    return folder


@pytest.fixture
def sdpo(built, tmp_path):
    """Return a function that runs the installed command in an empty folder."""

    def start(*arguments, **environment):
        program = built / "installed" / "bin" / "sdpo"
        return run(program, *arguments, cwd=tmp_path, PYTHONPATH=str(built / "installed"), **environment)

    return start


def test_the_source_archive_has_both_packages_and_the_documents_and_no_tests(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
    packages = {name for name in names if name.startswith(("sdpo/", "jobs/"))}
    assert packages == sources(ROOT)
    assert {name for name in names - packages if ".egg-info/" not in name} == {*FILES, *BUILT}


def test_the_wheel_has_every_file_of_the_packages_and_complete_metadata(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name for name in names if ".dist-info/" not in name} == sources(ROOT)
    assert f"{info}/licenses/LICENSE" in names
    assert "sdpo = jobs.__main__:main" in entry_points
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    assert metadata["Author"] and metadata["Summary"] and metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown" and len(metadata.get_payload()) > 1000
    assert len(metadata.get_all("Classifier")) > 5
    assert {"gpu", "claude", "loop", "postgres", "benchmarks", "test"} <= set(metadata.get_all("Provides-Extra"))


def test_what_runs_is_the_installed_package(built, tmp_path):
    code = "import sdpo, jobs; print(sdpo.__file__, jobs.__file__)"
    printed = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(built / "installed"))
    assert [Path(path).parents[1] for path in printed.split()] == [built / "installed"] * 2


def test_the_help_names_every_job_and_the_completion_can_be_sourced(sdpo, tmp_path):
    help = sdpo("--help")
    for path in (ROOT / "jobs").glob("[a-z]*.py"):
        assert f"  {path.stem.replace('_', '-')} " in help
    assert "--learning-rate" in sdpo("train-online-tldr", "--help")
    (tmp_path / "completion").write_text(sdpo("completion", "bash"))
    run("bash", "-c", "source ./completion && complete -p sdpo", cwd=tmp_path)


def test_messages_name_the_command_that_is_there(built, tmp_path):
    program = built / "installed" / "bin" / "sdpo"
    words = [program, "train-offline", "GPUS=1", "--model", built / "installed" / "sdpo" / "tiny" / "model"]
    environment = clean_environment(PYTHONPATH=str(built / "installed"))
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "sdpo prep-logs" in done.stderr and "make prep" not in done.stderr


def test_the_demo_trains_in_two_processes_from_the_installed_package(sdpo, built, tmp_path):
    """It starts `accelerate launch` with the config file that is shipped in the package."""
    # In the repository of another project, whose commit is not this package's.
    subprocess.run(["git", "init", "--quiet", tmp_path], check=False)
    few = ("GPUS=2", "TRAIN_N=32", "BS=8", "--eval-n", "0", "--save-steps", "1", "RUN_ID=few")
    printed = sdpo("demo", *few, "--user-model-name-or-path", "rule", CUDA_VISIBLE_DEVICES="")
    folder = tmp_path / "runs" / "sdpo-tldr-runs" / "few"
    assert f"report: {folder / 'report.html'}" in printed
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    started = json.loads((folder / "run.json").read_text("utf-8"))
    assert summary["finished"] and summary["steps"] == 2
    assert started["settings"]["model"] == str(built / "installed" / "sdpo" / "tiny" / "model")
    assert started["commit"] == os.environ.get("SDPO_COMMIT") and started["settings"]["world_size"] == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", ".git"}


def test_the_signal_is_drawn_from_the_installed_package(sdpo, tmp_path):
    sdpo("signal-analysis", "--tiny", "N_CASES=2", "OUT_DIR=signal")
    assert len(json.loads((tmp_path / "signal" / "sdpo_signals.json").read_text("utf-8"))) > 0
    assert (tmp_path / "signal" / "stacked.png").stat().st_size > 1000
