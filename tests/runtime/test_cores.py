"""How many threads a job takes: affinity, quotas of cgroups, load, and a division among programs of ours."""

import os
import subprocess
import sys

import pytest
import yaml

from sdpo import settings
from sdpo.runtime import cores, launch, processes, user_server
from sdpo.runtime.cores import Threads, count_cores, divide
from tests.commands import clean_environment

V1 = {
    "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
    "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
}
ABOVE = {"sys/fs/cgroup/pod/job/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "200000 100000"}
QUOTAS = {
    "none": ("0::/\n", {}, 16),
    "no files": (None, {}, 16),
    "version 2": ("0::/job\n", {"sys/fs/cgroup/job/cpu.max": "300000 100000\n"}, 3),
    "of a group above": ("0::/pod/job\n", ABOVE, 2),
    "of the container": ("0::/not/seen/here\n", {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
    "part of a core": ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    "version 1": ("5:memory:/a\n4:cpu,cpuacct:/a\n", V1, 2),
    "version 1 without": ("4:cpu,cpuacct:/a\n", V1 | {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1"}, 16),
    "more than there are": ("0::/\n", {"sys/fs/cgroup/cpu.max": "6400000 100000"}, 16),
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes this a machine with so many cores, with an affinity and a load."""

    def set_up(installed=16, affinity=None, load=0.0):
        monkeypatch.setattr(os, "cpu_count", lambda: installed)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity or installed)))
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0))

    return set_up


@pytest.mark.parametrize("name", QUOTAS)
def test_a_quota_limits_the_cores(name, machine, tmp_path):
    groups, files, usable = QUOTAS[name]
    for path, text in files.items() | ({("proc/self/cgroup", groups)} if groups else set()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    machine()
    assert count_cores(tmp_path).usable == usable


@pytest.mark.parametrize(
    ("installed", "affinity", "load", "usable", "free"),
    [(8, 8, 0.0, 8, 8), (8, 3, 0.0, 3, 3), (8, 8, 5.2, 8, 3), (8, 2, 5.2, 2, 2), (2, 2, 2.07, 2, 1), (2, 2, 40.0, 2, 1),
     (2, 2, 0.4, 2, 2), (1, 1, 0.0, 1, 1)],
)  # fmt: skip
def test_what_others_use_is_left_to_them(installed, affinity, load, usable, free, machine, tmp_path):
    machine(installed, affinity, load)
    counted = count_cores(tmp_path)
    assert (counted.usable, counted.free) == (usable, free)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8,), Threads(8)),
        ((8, 4), Threads(2)),
        ((8, 1, True), Threads(4, 4)),
        ((9, 2, True), Threads(2, 4)),
        ((8, 1, False, 2), Threads(4)),
        ((2, 1, True), Threads(1, 1)),
        ((1, 4, True, 3), Threads(1, 1)),
    ],
)
def test_a_server_and_a_trainer_divide_the_cores(arguments, expected):
    threads = divide(*arguments)
    assert threads == expected
    processes, *_ = (*arguments[1:], 1)
    assert threads.each * processes + threads.server <= max(arguments[0], processes + (threads.server > 0))


def test_the_choice_is_stated_and_a_given_number_is_respected(machine, monkeypatch):
    machine(8, load=2.0)
    for name in list(sys.modules):
        if name == "torch":
            monkeypatch.delitem(sys.modules, name)
    for name in (cores.THREADS, cores.SHARERS, "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "_quotas", lambda root: [])
    threads, line = cores.set_threads(starts_server=True)
    assert threads == Threads(3, 3) and os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "\n" not in line and "3 for the simulated user's server" in line and "2 of them busy" in line
    assert cores.set_threads() is None and os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv(cores.THREADS, "")
    monkeypatch.setenv(cores.SHARERS, "3")
    assert cores.set_threads()[0] == Threads(2)


JOB = """
from dataclasses import dataclass
from sdpo.runtime.launch import Job, main
from sdpo.settings import {kind}
JOB = Job(name="fake", summary="a fake", settings={kind}, folder="fake", run="fake:run", module="fake")

def run(settings, job):
    import os, torch
    print("torch", torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"], flush=True)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
"""


@pytest.mark.parametrize(
    ("given", "stated"), [({}, True), ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}, False)]
)
def test_torch_computes_with_the_chosen_number(given, stated, tmp_path):
    (tmp_path / "fake.py").write_text(JOB.format(kind="JobSettings"))
    variables = {
        name: value for name, value in clean_environment(CUDA_VISIBLE_DEVICES="").items() if name != "OMP_NUM_THREADS"
    }
    command = [sys.executable, "-m", "fake"]
    done = subprocess.run(
        command, cwd=tmp_path, env=variables | given, capture_output=True, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("threads:")]
    assert len(lines) == stated and (not stated or lines[0].startswith("threads: 1; 1 core(s)"))
    number, policy = given.get("OMP_NUM_THREADS", "1"), given.get("OMP_WAIT_POLICY", "PASSIVE")
    assert f"torch {number} {policy}" in done.stdout


@pytest.mark.parametrize(
    ("kind", "values", "gpus", "set_to", "server"),
    [
        ("OnlineSettings", {}, [], "4", 4),
        ("OnlineSettings", {"world_size": 2}, [], "2", 4),
        ("OnlineSettings", {"simulator_url": "http://127.0.0.1:1/v1"}, [], "4", None),
        ("OnlineSettings", {"simulator_url": "http://user.example/v1"}, [], "8", None),
        ("OnlineSettings", {"user_model_name_or_path": "rule"}, [], "8", None),
        ("SimulatorSettings", {}, [], "4", None),
        ("JobSettings", {}, [], "8", None),
        ("OnlineSettings", {}, ["0"], None, None),
    ],
)
def test_a_job_leaves_room_for_the_program_it_works_with(kind, values, gpus, set_to, server, machine, monkeypatch):
    machine(8)
    monkeypatch.setattr(cores, "_quotas", lambda root: [])
    monkeypatch.setattr(processes, "visible_gpus", lambda: gpus)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in (cores.THREADS, "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")
    settings_kind = getattr(settings, kind)
    job = launch.Job(name="x", summary="", settings=settings_kind, run="x:y", needs_simulator=True)
    assert user_server.set_threads(settings_kind(**values), job) == server
    assert os.environ[cores.THREADS] == (set_to or "")


def test_containers_on_one_cpu_divide_it(project):
    def services(name):
        text = (project / "docker" / f"compose.{name}.yaml").read_text("utf-8")
        return yaml.safe_load(text.replace("!reset", ""))["services"]

    assert services("cpu")["trainer"]["environment"][cores.SHARERS] == "2"  # the simulator takes half by itself
    two = services("two-nodes-cpu")
    assert {two[name]["environment"][cores.SHARERS] for name in ("trainer", "trainer-2")} == {"4"}
