"""Real containers, if a Docker engine responds: the image, the smoke test, and interrupted runs."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.docker import IMAGE, NAME, OWNER, inspected, needs_engine, run
from tests.servers import until
from tests.worlds import PROJECT, curve, rows_of, write_replay

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """Build a CPU image for these tests and remove it afterwards."""
    run("docker/compose.sh", "build", "trainer", DOCKER_VARIANT="cpu", DOCKER_IMAGE=IMAGE)
    yield IMAGE
    run("docker", "image", "rm", "--force", IMAGE, expect=None)


@needs_engine
def test_the_image_contains_no_secrets_no_repository_and_no_build_tools(image):
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    config = inspected("image", image)["Config"]
    for text in (history, json.dumps(config)):
        assert not any(f"{name}_{kind}=" in text for name in ("HF", "API") for kind in ("KEY", "TOKEN"))
        assert ".git" not in text and ".env" not in text
    assert config["User"].split(":")[0] not in ("", "0", "root")
    assert config["Labels"]["org.opencontainers.image.revision"]
    assert "torch==" in config["Labels"]["sdpo.versions"]
    commands = (
        "ls -A /app /cache; id -u; command -v gcc make git; ls /opt/venv/bin/pip; find /var/lib/apt/lists -type f"
    )
    output = run("docker", "run", "--rm", image, "sh", "-c", f"{{ {commands}; }} 2>/dev/null || true")
    assert output.split() == ["/app:", "docker", "jobs", "sdpo", "/cache:", "1000"]
    hidden = run(
        "docker", "run", "--rm", "--user", "0:0", image, "find", "/app", "/root/.cache", "-name", ".*", expect=None
    )
    assert not [line for line in hidden.splitlines() if line.startswith("/")]


@needs_engine
def test_a_source_change_keeps_the_package_layers(image, tmp_path):
    before = inspected("image", image)["RootFS"]["Layers"]
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (".dockerignore", ".env.example", "requirements.lock", "compose.yaml"):
        shutil.copy(PROJECT / name, tree)
    for name in ("docker", "jobs", "sdpo"):
        shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "sdpo" / "errors.py").open("a") as source:
        source.write("# changed\n")
    name = f"{IMAGE}-changed"
    run(str(tree / "docker" / "compose.sh"), "build", "trainer", DOCKER_VARIANT="cpu", DOCKER_IMAGE=name)
    after = inspected("image", name)["RootFS"]["Layers"]
    run("docker", "image", "rm", name)
    same = [old == new for old, new in zip(before, after, strict=True)]
    assert not all(same)
    # Only the last few layers differ; the large layer with the packages does not.
    assert all(same[: same.index(False)]) and same.index(False) >= len(same) - 3


@needs_engine
def test_the_smoke_test_reaches_the_demo_s_results_and_the_caller_owns_its_files(image, tmp_path):
    printed = run("make", "smoke-docker", DOCKER_IMAGE=image, RUN_ID="r", SCRATCH=str(tmp_path / "runs"),
                  COMPOSE_PROJECT_NAME=f"{NAME}-smoke")  # fmt: skip
    folder = tmp_path / "runs" / "sdpo-tldr-runs"
    summary = json.loads((folder / "r" / "summary.json").read_text())
    assert summary["finished"] and summary["after"]["adherence"] >= 0.95 and summary["after"]["validity"] >= 0.9
    table = (folder / "r.txt").read_text()
    assert "adherence" in table and "adherence" in printed
    for file in [folder / "r.txt", folder / "r", *(folder / "r").iterdir()]:
        assert file.stat().st_uid == os.getuid()
    assert (folder / "r" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={NAME}-smoke") == ""


@needs_engine
def test_the_loop_answers_on_one_port_of_this_machine_keeps_what_is_said_and_learns(image, tmp_path):
    """`make up-loop` with the tiny model; the night ends at once, as one conversation is too little to learn from."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = {"COMPOSE_PROJECT_NAME": f"{NAME}-loop", "DOCKER_IMAGE": image, "DOCKER_VARIANT": "cpu"}
    given |= {"SCRATCH": str(tmp_path / "runs"), "GATEWAY_PORT": port}

    def container(service: str) -> str:
        return run("docker/compose.sh", "ps", "--quiet", service, **given).strip()

    try:
        run("make", "up-loop", **given)
        services = [inspected("container", container(name)) for name in ("server", "gateway", "learner")]
        bound = [host for one in services for hosts in one["NetworkSettings"]["Ports"].values() for host in hosts or ()]
        assert bound == [{"HostIp": "127.0.0.1", "HostPort": port}]
        assert all(one["Config"]["User"].split(":")[0] not in ("", "0", "root") for one in services)
        assert "learning in" in run("docker", "logs", container("learner"))
        messages = [{"role": "user", "content": "My brother has a dog. Yesterday it licked my guitar in the garage."}]
        body = {"model": "sdpo", "messages": messages, "max_tokens": 24}
        response = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=120, trust_env=False)
        answer = response.json()["choices"][0]["message"]["content"]
        assert response.headers["x-sdpo-version"] == "base" and answer.strip() and "think" not in answer
        run("make", "up-loop", LEARN_HOUR="now", **given)
        learner = container("learner")
        assert until(lambda: "the night ended with" in run("docker", "logs", learner), 240)
        shown = run("docker", "logs", learner)
        assert "ended with exit code 0" in shown and "in none did a user reply to an answer" in shown, shown[-2000:]
        assert (tmp_path / "runs" / "store.sqlite").stat().st_uid == OWNER
    finally:
        run("docker/compose.sh", "down", "--volumes", "--timeout", "5", **given)


class Stack:
    """The tiny world's containers with a run of 30 steps, which tests interrupt."""

    def __init__(self, scratch: Path) -> None:
        self.runs = scratch / "sdpo-tldr-runs"
        self.variables = {
            "COMPOSE_PROJECT_NAME": NAME, "DOCKER_IMAGE": IMAGE, "DOCKER_VARIANT": "cpu",
            "SCRATCH": str(scratch), "TRAIN_N": "480", "SAVE_STEPS": "2", "EVAL_N": "0", "STYLE": "no_emojis",
        }  # fmt: skip

    def compose(self, *arguments: str, **variables: str) -> str:
        return run("docker/compose.sh", *arguments, **(self.variables | variables))

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def state(self, service: str) -> dict:
        return inspected("container", self.container(service))["State"]

    def logs(self, service: str) -> str:
        return run("docker", "logs", self.container(service))

    def steps(self, run_id: str) -> list[int]:
        file = self.runs / run_id / "metrics.jsonl"
        return [row["step"] for row in rows_of(file)] if file.exists() else []

    def reach(self, run_id: str, step: int) -> None:
        """Wait until the run has made at least `step` steps."""
        assert until(lambda: len(self.steps(run_id)) >= step or not self.state("trainer")["Running"], 900)
        assert self.state("trainer")["Running"], self.logs("trainer")[-2000:]

    def ends(self, expect: int) -> None:
        run("docker", "wait", self.container("trainer"))
        assert self.state("trainer")["ExitCode"] == expect, self.logs("trainer")[-2000:]


@pytest.fixture(scope="module")
def stack(image, tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack") / "runs")
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")  # a second trainer too


@needs_engine
def test_a_crashed_simulator_is_restarted_and_the_trainer_waits_for_a_killed_one(stack):
    stack.compose("up", "--detach", RUN_ID="interrupted")
    stack.reach("interrupted", 2)
    # A crash: the server process in the container is killed.
    simulator = stack.container("simulator")
    run("docker", "exec", simulator, "python", "-c", KILL_THE_SERVER)
    assert until(lambda: inspected("container", simulator)["RestartCount"] == 1, 120)
    # The run continues whether the simulator is back within the retries of a request or later.
    stack.reach("interrupted", len(stack.steps("interrupted")) + 3)
    waits = stack.logs("trainer").count("waiting up to")
    # The engine does not restart a container after `docker kill`.
    run("docker", "kill", simulator)
    assert until(lambda: stack.logs("trainer").count("waiting up to") > waits, 300), stack.logs("trainer")[-2000:]
    assert not stack.state("simulator")["Running"]
    stack.compose("up", "--detach", "simulator", RUN_ID="interrupted")
    stack.ends(0)
    assert stack.steps("interrupted") == list(range(1, 31))


KILL_THE_SERVER = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if b"\\0serve\\0" in (folder / "cmdline").read_bytes():
        os.kill(int(folder.name), signal.SIGKILL)
"""


@needs_engine
def test_a_stopped_or_killed_trainer_resumes_with_the_next_up(stack):
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.reach("ended", 3)
    stack.compose("stop", "trainer")
    stack.ends(143)
    saved = len(stack.steps("ended"))
    assert (stack.runs / "ended" / f"checkpoint-{saved}" / "complete.json").exists()
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.reach("ended", saved + 3)
    assert f"after step {saved}" in stack.logs("trainer")
    run("docker", "kill", stack.container("trainer"))
    stack.ends(137)
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.ends(0)
    assert stack.steps("ended") == list(range(1, 31))
    assert (stack.runs / "ended").stat().st_uid == OWNER
    # A finished run is not started again.
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.ends(1)
    assert "RUN_ID" in stack.logs("trainer")


@needs_engine
def test_two_trainers_match_one_trainer_with_twice_the_accumulation(stack):
    stack.runs.parent.mkdir(exist_ok=True)
    replay = write_replay(stack.runs.parent / "replay.jsonl", 32)
    given = {"REPLAY_JSONL": f"runs/{replay.name}", "TRAIN_N": "32", "BS": "4", "SAVE_STEPS": "4"}
    two = {"RUN_ID": "two", "DOCKER_VARIANT": "two-nodes-cpu", "WORLD_SIZE": "2"}
    stack.compose("up", "--detach", **given, **two)
    for service in ("trainer", "trainer-2"):
        container = stack.compose("ps", "--all", "--quiet", service, **two).strip()
        run("docker", "wait", container)
        assert inspected("container", container)["State"]["ExitCode"] == 0, run("docker", "logs", container)[-2000:]
    stack.compose("up", "--detach", "trainer", RUN_ID="one", GA="2", **given)
    stack.ends(0)
    one, both = (curve(stack.runs / name) for name in ("one", "two"))
    assert len(one) == 4 and len(both) == 4
    for row, other in zip(one, both, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


@needs_engine
@pytest.mark.parametrize(
    ("size", "said", "code"),
    [("6m", "a checkpoint takes", 2), ("14m", "the disk is full", 1), ("17m", "the disk is full", 1)],
    ids=["before", "weights", "optimizer"],
)
def test_a_full_volume_is_reported_in_one_line(stack, size, said, code):
    """There is no space for a checkpoint at all, or the volume is full at the first or last file of the second."""
    variables = {"TINY": "1", "RUN_ID": "full", "SIMULATOR_URL": "http://simulator:8000/v1", "SAVE_STEPS": "1"}
    stack.compose("up", "--detach", "simulator")
    until(lambda: stack.state("simulator")["Health"]["Status"] == "healthy", 300)
    printed = run(
        "docker", "run", "--rm", "--read-only", "--init", "--network", f"{NAME}_inside",
        "--tmpfs", "/tmp", "--tmpfs", "/cache:mode=1777", "--tmpfs", f"/app/runs:size={size},mode=1777",
        *(word for pair in variables.items() for word in ("-e", "=".join(pair))),
        IMAGE, "python", "-m", "jobs.train_online_tldr", "--eval-n", "0", "--train-n", "32",
        expect=code,
    )  # fmt: skip
    assert "Traceback" not in printed
    # Not "the last line": the engine reads the two streams of a container separately, and keeps no order between them.
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0] and "SCRATCH" in errors[0], printed[-2000:]
