"""The containers' files: what Compose makes of them, the script before it, and the preparation."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.docker import OWNER, needs_compose, run
from tests.worlds import PROJECT, environment

COMPOSE = ["docker", "compose", "-f", "compose.yaml"]
VARIANTS = [[], ["cpu"], ["vllm"], ["two-nodes"], ["cpu", "two-nodes", "two-nodes-cpu"]]
SECRET = "s3cr3t-value-nobody-may-see"


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
        given = {"SDPO_MAKE_VARIABLES": ""} | variables  # not those of the make that runs the tests
        run("docker/compose.sh", *arguments, PATH=path, SCRATCH=str(tmp_path / "runs"), **given)
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
