"""The containers: their files everywhere, and real ones where a Docker engine answers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.servers import until
from tests.worlds import PROJECT, curve, environment, rows_of, write_replay

COMPOSE = ["docker", "compose", "-f", "compose.yaml"]
VARIANTS = [[], ["cpu"], ["vllm"], ["two-nodes"], ["cpu", "two-nodes", "two-nodes-cpu"]]
SECRET = "s3cr3t-value-nobody-may-see"
# This run's own, so that two of them on one engine leave each other alone.
NAME = f"sdpo-test-{os.getpid()}"
IMAGE = NAME
# The owner of what the containers write; they refuse to be root.
OWNER = os.getuid() or 1000


def succeeds(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


ENGINE = succeeds("docker", "info") and succeeds("docker", "compose", "version")
needs_compose = pytest.mark.skipif(not succeeds("docker", "compose", "version"), reason="needs Docker Compose")
needs_engine = pytest.mark.skipif(not ENGINE, reason="no Docker engine answers")


def run(*command: str, expect: int | None = 0, timeout: float = 3600, **variables: str) -> str:
    """Run a command in the project and return what it printed; the end of it is shown where its code differs."""
    done = subprocess.run(
        command, env=environment(**variables), cwd=PROJECT, timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    tail = "\n".join(done.stdout.splitlines()[-40:])
    assert expect is None or done.returncode == expect, f"{command} ended with {done.returncode}\n{tail}"
    return done.stdout


# What is written down


def composed(variants: list[str], *profiles: str, **variables: str) -> dict:
    files = [word for name in variants for word in ("-f", f"docker/compose.{name}.yaml")]
    chosen = [word for name in profiles for word in ("--profile", name)]
    return yaml.safe_load(run(*COMPOSE, *files, *chosen, "config", DOCKER_ENV_FILE=".env.example", **variables))


@needs_compose
@pytest.mark.parametrize("variants", VARIANTS, ids=lambda names: "-".join(names) or "gpu")
def test_every_variant_is_valid_and_keeps_its_doors_shut(variants):
    services = composed(variants, "job")["services"]
    assert {"prep", "simulator", "trainer", "job"} <= set(services)
    for service in services.values():
        assert "ports" not in service and "network_mode" not in service and not service.get("privileged")
        assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"].split(":")[0] not in ("", "0", "root")
        assert int(service["mem_limit"]) > 0 and service["logging"]["options"]["max-size"]
    assert set(services["simulator"]["networks"]) == {"inside"}
    wanted = {name: condition["condition"] for name, condition in services["trainer"]["depends_on"].items()}
    assert wanted == {"prep": "service_completed_successfully", "simulator": "service_healthy"}
    on_gpu = [name for name, service in services.items() if "devices" in str(service.get("deploy"))]
    assert bool(on_gpu) == ("cpu" not in variants)
    assert services["simulator"]["healthcheck"]["test"][-1].count("/health") == 1


@needs_compose
def test_only_the_inner_network_has_no_way_out():
    networks = composed(["cpu"])["networks"]
    assert networks["inside"]["internal"] is True
    assert not networks["outside"].get("internal")


@needs_compose
def test_the_simulator_is_given_no_secrets_and_nobody_is_given_them_in_words():
    secrets = dict.fromkeys(("HF_TOKEN", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "SIMULATOR_API_KEY"), SECRET)
    whole = composed([], **secrets)
    assert SECRET not in str(whole)
    targets = {mount["target"] for mount in whole["services"]["simulator"]["volumes"]}
    assert "/app/.env" not in targets


@needs_compose
def test_two_trainers_differ_in_their_rank_and_meet_at_the_first():
    services = composed(["cpu", "two-nodes", "two-nodes-cpu"])["services"]
    first, second = (services[name]["environment"] for name in ("trainer", "trainer-2"))
    assert (first["NODE_RANK"], second["NODE_RANK"]) == ("0", "1")
    assert first["MASTER_ADDR"] == second["MASTER_ADDR"] == "trainer"
    differing = {name for name in first if first[name] != second.get(name)}
    assert differing == {"NODE_RANK"} and set(first) == set(second)
    assert services["trainer"]["image"] == services["trainer-2"]["image"]


def test_the_examples_are_what_they_say():
    manifests = list(yaml.safe_load_all((PROJECT / "examples" / "kubernetes.yaml").read_text("utf-8")))
    pods = [item["spec"]["template"]["spec"] for item in manifests if "template" in item.get("spec", {})]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
    subprocess.run(["bash", "-n", PROJECT / "examples" / "slurm.sh"], check=True)
    yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text("utf-8"))


# The script between make and Compose


@pytest.fixture
def docker(tmp_path):
    """Return a function that runs the script with a docker that writes down what it is told."""
    program = tmp_path / "docker"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = info ] && exit\nprintf "%s\\n" "$*" "$DOCKER_UID" "$DOCKER_ENV_FILE" >"{tmp_path}/told"\n'
        f'case "$*" in *"-f - "*) cat >>"{tmp_path}/told" ;; esac\n'
    )
    program.chmod(0o755)

    def call(*arguments: str, **variables: str) -> list[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        run("docker/compose.sh", *arguments, PATH=path, SCRATCH=str(tmp_path / "runs"), **variables)
        return (tmp_path / "told").read_text().splitlines()

    return call


def test_up_hands_on_the_names_of_settings_and_none_of_their_values(docker):
    told = docker("up", "--detach", LR="0.5", ANTHROPIC_API_KEY=SECRET, DOCKER_VARIANT="cpu", OTHER="1")
    assert told[0] == "compose -f compose.yaml -f docker/compose.cpu.yaml -f - up --no-build --detach"
    handed = yaml.safe_load("\n".join(told[told.index("services:") :]))["services"]
    assert handed == {"trainer": {"environment": ["ANTHROPIC_API_KEY", "LR"]}}
    assert SECRET not in str(told)


def test_both_of_two_trainers_get_the_settings(docker):
    told = docker("up", LR="0.5", WORLD_SIZE="8", DOCKER_VARIANT="two-nodes")
    handed = yaml.safe_load("\n".join(told[told.index("services:") :]))["services"]
    assert handed["trainer"] == handed["trainer-2"] == {"environment": ["LR", "WORLD_SIZE"]}


def test_run_hands_on_settings_and_what_make_was_given_even_where_it_is_none(docker):
    told = docker("run", "job", "true", STYLE="my style", TINY="1", LRR="1", SDPO_MAKE_VARIABLES="LRR STYLE")
    words = told[0].split(" run ")[1].split()
    names = {words[place + 1] for place, word in enumerate(words) if word == "-e"}
    assert names == {"LRR", "SDPO_MAKE_VARIABLES", "STYLE", "TINY"}
    assert words[-2:] == ["job", "true"] and "-T" in words


def test_nothing_runs_as_root_and_the_caller_owns_what_is_written(docker, tmp_path):
    _, user, file, *_ = docker("config")
    assert int(user) == OWNER
    assert (tmp_path / "runs").stat().st_uid == OWNER
    assert file == ("" if (PROJECT / ".env").exists() else ".env.example")


def test_a_variant_that_is_none_is_said(docker, tmp_path):
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    shown = run("docker/compose.sh", "config", expect=2, PATH=path, DOCKER_VARIANT="tpu", SCRATCH=str(tmp_path))
    assert "DOCKER_VARIANT=tpu" in shown


# What is there before the trainer starts


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"TINY": "1"}, 0, "prepared"),
        ({"TINY": "1", "JOB": "train-online-tdlr"}, 2, "train-online-tldr?"),
        ({"JOB": "simulator"}, 2, "JOB=simulator"),
        ({"JOB": "../train_online_tldr"}, 2, "no job"),
        ({"TINY": "1", "TRAIN_JSONL": "mine.jsonl"}, 2, "mine.jsonl"),
        ({"JOB": "train-online-helpsteer"}, 2, "claude-"),
        ({"TINY": "1", "MODEL_NAME_OR_PATH": "nobody/nothing"}, 2, "nobody/nothing"),
    ],
)
def test_the_preparation_is_done_or_said_in_one_line(variables, code, said, tmp_path):
    done = subprocess.run(
        [sys.executable, PROJECT / "docker" / "prepare.py"],
        env=environment(HF_HOME=str(tmp_path / "hub"), **variables), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in (done.stderr if code else done.stdout)
    assert len(done.stderr.splitlines()) == bool(code)


# Real ones


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """Build the image for the CPU, as the tests' own, and take its name away afterwards."""
    run("docker/compose.sh", "build", "trainer", DOCKER_VARIANT="cpu", DOCKER_IMAGE=IMAGE)
    yield IMAGE
    run("docker", "image", "rm", "--force", IMAGE, expect=None)


def inspected(kind: str, name: str) -> dict:
    return json.loads(run("docker", kind, "inspect", name))[0]


@needs_engine
def test_the_image_holds_no_secret_no_repository_and_no_build_tools(image):
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    config = inspected("image", image)["Config"]
    for text in (history, json.dumps(config)):
        assert not any(f"{name}_{kind}=" in text for name in ("HF", "API") for kind in ("KEY", "TOKEN"))
        assert ".git" not in text and ".env" not in text
    assert config["User"].split(":")[0] not in ("", "0", "root")
    assert config["Labels"]["org.opencontainers.image.revision"]
    assert "torch==" in config["Labels"]["sdpo.versions"]
    look = "ls -A /app /cache; id -u; command -v gcc make git; ls /opt/venv/bin/pip; find /var/lib/apt/lists -type f"
    found = run("docker", "run", "--rm", image, "sh", "-c", f"{{ {look}; }} 2>/dev/null || true")
    assert found.split() == ["/app:", "docker", "jobs", "sdpo", "/cache:", "1000"]
    hidden = run(
        "docker", "run", "--rm", "--user", "0:0", image, "find", "/app", "/root/.cache", "-name", ".*", expect=None
    )
    assert not [line for line in hidden.splitlines() if line.startswith("/")]


@needs_engine
def test_a_change_of_the_source_leaves_the_layers_of_the_packages(image, tmp_path):
    before = inspected("image", image)["RootFS"]["Layers"]
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (".dockerignore", ".env.example", "requirements.lock", "compose.yaml"):
        shutil.copy(PROJECT / name, tree)
    for name in ("docker", "jobs", "sdpo"):
        shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "sdpo" / "prompts.py").open("a") as source:
        source.write("# changed\n")
    name = f"{IMAGE}-changed"
    run(str(tree / "docker" / "compose.sh"), "build", "trainer", DOCKER_VARIANT="cpu", DOCKER_IMAGE=name)
    after = inspected("image", name)["RootFS"]["Layers"]
    run("docker", "image", "rm", name)
    same = [old == new for old, new in zip(before, after, strict=True)]
    assert not all(same)
    # All but the last few, of which the packages' is the biggest one.
    assert all(same[: same.index(False)]) and same.index(False) >= len(same) - 3


@needs_engine
def test_the_smoke_trains_to_the_demo_s_numbers_and_leaves_its_results_to_the_caller(image, tmp_path):
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


class Stack:
    """The tiny world's containers, with a run of 30 steps of which the tests interrupt some."""

    def __init__(self, scratch: Path) -> None:
        self.runs = scratch / "sdpo-tldr-runs"
        self.variables = {
            "COMPOSE_PROJECT_NAME": NAME, "DOCKER_IMAGE": IMAGE, "DOCKER_VARIANT": "cpu",
            "SCRATCH": str(scratch), "TRAIN_N": "480", "SAVE_STEPS": "2", "EVAL_N": "0", "STYLE": "no_emojis",
        }  # fmt: skip

    def compose(self, *arguments: str, **variables: str) -> str:
        return run("docker/compose.sh", *arguments, **self.variables, **variables)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def state(self, service: str) -> dict:
        return inspected("container", self.container(service))["State"]

    def said(self, service: str) -> str:
        return run("docker", "logs", self.container(service))

    def steps(self, run_id: str) -> list[int]:
        file = self.runs / run_id / "metrics.jsonl"
        return [row["step"] for row in rows_of(file)] if file.exists() else []

    def reach(self, run_id: str, step: int) -> None:
        """Wait for the run to have made so many steps more than none."""
        assert until(lambda: len(self.steps(run_id)) >= step or not self.state("trainer")["Running"], 900)
        assert self.state("trainer")["Running"], self.said("trainer")[-2000:]

    def ends(self, expect: int) -> None:
        run("docker", "wait", self.container("trainer"))
        assert self.state("trainer")["ExitCode"] == expect, self.said("trainer")[-2000:]


@pytest.fixture(scope="module")
def stack(image, tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("stack") / "runs")
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "10")


@needs_engine
def test_a_simulator_that_crashes_is_restarted_and_one_that_is_killed_is_waited_for(stack):
    stack.compose("up", "--detach", RUN_ID="away")
    stack.reach("away", 2)
    # A crash: its server ends by itself. It has no key and no door to the outside.
    simulator = stack.container("simulator")
    run("docker", "exec", simulator, "python", "-c", KILL_THE_SERVER)
    assert until(lambda: inspected("container", simulator)["RestartCount"] == 1, 120)
    # Back within the retries of a request or later than them: either way the run goes on.
    stack.reach("away", len(stack.steps("away")) + 3)
    waits = stack.said("trainer").count("waiting up to")
    # `docker kill` is taken for somebody's wish, and the engine does not bring it back.
    run("docker", "kill", simulator)
    assert until(lambda: stack.said("trainer").count("waiting up to") > waits, 300), stack.said("trainer")[-2000:]
    assert not stack.state("simulator")["Running"]
    stack.compose("up", "--detach", "simulator", RUN_ID="away")
    stack.ends(0)
    assert stack.steps("away") == list(range(1, 31))


KILL_THE_SERVER = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if b"\\0serve\\0" in (folder / "cmdline").read_bytes():
        os.kill(int(folder.name), signal.SIGKILL)
"""


@needs_engine
def test_a_trainer_that_is_stopped_or_killed_continues_with_the_next_up(stack):
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.reach("ended", 3)
    stack.compose("stop", "trainer")
    stack.ends(143)
    saved = len(stack.steps("ended"))
    assert (stack.runs / "ended" / f"checkpoint-{saved}" / "complete.json").exists()
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.reach("ended", saved + 3)
    assert f"after step {saved}" in stack.said("trainer")
    run("docker", "kill", stack.container("trainer"))
    stack.ends(137)
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.ends(0)
    assert stack.steps("ended") == list(range(1, 31))
    assert (stack.runs / "ended").stat().st_uid == OWNER
    # A run that is finished is not begun again.
    stack.compose("up", "--detach", RUN_ID="ended")
    stack.ends(1)
    assert "RUN_ID" in stack.said("trainer")


@needs_engine
def test_two_trainers_train_as_one_with_twice_the_batch(stack):
    replay = write_replay(stack.runs.parent / "replay.jsonl", 32)
    shutil.chown(replay, OWNER)
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
@pytest.mark.parametrize("size", ["2m", "6m"], ids=["weights", "optimizer"])
def test_a_full_volume_is_said_in_one_line(stack, size):
    """The first file of a checkpoint does not fit, or one of the last."""
    variables = {"TINY": "1", "RUN_ID": "full", "SIMULATOR_URL": "http://simulator:8000/v1", "SAVE_STEPS": "1"}
    stack.compose("up", "--detach", "simulator")
    until(lambda: stack.state("simulator")["Health"]["Status"] == "healthy", 300)
    printed = run(
        "docker", "run", "--rm", "--read-only", "--init", "--network", f"{NAME}_inside",
        "--tmpfs", "/tmp", "--tmpfs", "/cache:mode=1777", "--tmpfs", f"/app/runs:size={size},mode=1777",
        *(word for pair in variables.items() for word in ("-e", "=".join(pair))),
        IMAGE, "python", "-m", "jobs.train_online_tldr", "--eval-n", "0", "--train-n", "32",
        expect=1,
    )  # fmt: skip
    assert "Traceback" not in printed
    assert "the disk is full" in printed.splitlines()[-1] and "SCRATCH" in printed.splitlines()[-1]
