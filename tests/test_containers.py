"""The container files: the configuration that Compose reads from them, the script that calls it, and prepare.py."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from tests.docker import OWNER, needs_compose, run
from tests.worlds import PROJECT, environment

pytestmark = pytest.mark.slow

COMPOSE = ["docker", "compose", "-f", "compose.yaml"]
VLLM_CPU = ["cpu", "vllm", "vllm-cpu"]
VARIANTS = [[], ["cpu"], ["vllm"], VLLM_CPU, ["two-nodes"], ["cpu", "two-nodes", "two-nodes-cpu"]]
SECRET = "s3cr3t-value-that-must-not-appear"


# The compose files


def composed(variants: list[str], *profiles: str, **variables: str) -> dict:
    files = [word for name in variants for word in ("-f", f"docker/compose.{name}.yaml")]
    chosen = [word for name in profiles for word in ("--profile", name)]
    return yaml.safe_load(run(*COMPOSE, *files, *chosen, "config", DOCKER_ENV_FILE=".env.example", **variables))


@needs_compose
@pytest.mark.parametrize("variants", VARIANTS, ids=lambda names: "-".join(names) or "gpu")
def test_every_variant_is_valid_and_locked_down(variants):
    services = composed(variants, "job")["services"]
    assert {"prep", "simulator", "trainer", "job"} <= set(services)
    for service in services.values():
        assert "ports" not in service and "network_mode" not in service and not service.get("privileged")
        assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"].split(":")[0] not in ("", "0", "root")
        assert int(service["mem_limit"]) > 0 and service["logging"]["options"]["max-size"]
    assert set(services["simulator"]["networks"]) == {"inside"}
    conditions = {name: condition["condition"] for name, condition in services["trainer"]["depends_on"].items()}
    assert conditions == {"prep": "service_completed_successfully", "simulator": "service_healthy"}
    on_gpu = [name for name, service in services.items() if "devices" in str(service.get("deploy"))]
    assert bool(on_gpu) == ("cpu" not in variants)
    assert services["simulator"]["healthcheck"]["test"][-1].count("/health") == 1


@needs_compose
def test_what_trains_leaves_the_gpu_of_what_serves_alone():
    for profiles, trains, serves in (((), "trainer", "simulator"), (("loop",), "learner", "server")):
        services = composed([], *profiles)["services"]
        [device] = services[serves]["deploy"]["resources"]["reservations"]["devices"]
        assert device["device_ids"] == ["0"]
        assert services[trains]["environment"]["CUDA_VISIBLE_DEVICES"] == "1,2,3,4,5,6,7"


@needs_compose
def test_only_the_inside_network_is_internal():
    networks = composed(["cpu"])["networks"]
    assert networks["inside"]["internal"] is True
    assert not networks["outside"].get("internal")


@needs_compose
def test_the_simulator_gets_no_secrets_and_the_configuration_contains_none():
    secrets = dict.fromkeys(("HF_TOKEN", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "SIMULATOR_API_KEY"), SECRET)
    config = composed([], **secrets)
    assert SECRET not in str(config)
    targets = {mount["target"] for mount in config["services"]["simulator"]["volumes"]}
    assert "/app/.env" not in targets


@needs_compose
def test_two_trainers_differ_only_in_rank_and_connect_to_the_first():
    services = composed(["cpu", "two-nodes", "two-nodes-cpu"])["services"]
    first, second = (services[name]["environment"] for name in ("trainer", "trainer-2"))
    assert (first["NODE_RANK"], second["NODE_RANK"]) == ("0", "1")
    assert first["MASTER_ADDR"] == second["MASTER_ADDR"] == "trainer"
    differing = {name for name in first if first[name] != second.get(name)}
    assert differing == {"NODE_RANK"} and set(first) == set(second)
    assert services["trainer"]["image"] == services["trainer-2"]["image"]


@needs_compose
@pytest.mark.parametrize("variants", [[], ["cpu"], ["vllm"], VLLM_CPU], ids=lambda names: "-".join(names) or "gpu")
def test_of_the_loop_only_the_gateway_can_be_reached_and_only_from_this_machine(variants):
    config = composed(variants, "loop", GATEWAY_PORT="9000", MODEL="org/model")
    services = config["services"]
    loop = {"fetch", "server", "gateway", "learner"}
    assert loop <= set(services) and "webui" not in services and "job" not in services
    for name in loop:
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
        assert services[name]["user"].split(":")[0] not in ("", "0", "root")
        assert ("ports" in services[name]) == (name == "gateway")
    [port] = services["gateway"]["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "9000", 8787)
    assert all(set(services[name]["networks"]) == {"inside"} for name in ("server", "learner"))
    assert set(services["gateway"]["networks"]) == {"inside", "front"}
    learner, gateway = services["learner"]["environment"], services["gateway"]["environment"]
    assert all(learner[name] == gateway[name] for name in ("STORE_URL", "REGISTRY", "UPSTREAM"))
    runs = next(mount for mount in services["server"]["volumes"] if mount["target"] == "/app/runs")
    assert runs["read_only"] and learner["REGISTRY"].startswith("/app/runs/")
    on_gpu = [name for name in loop if "devices" in str(services[name].get("deploy"))]
    assert sorted(on_gpu) == ([] if "cpu" in variants else ["learner", "server"])
    assert ("--enable-lora" in services["server"]["command"]) == ("vllm" in variants)


@needs_compose
@pytest.mark.parametrize("variants", [["vllm"], VLLM_CPU], ids="-".join)
def test_vllm_is_pinned_is_not_built_here_and_writes_only_where_it_may(variants):
    given = {"USER_MODEL_NAME_OR_PATH": "org/user", "MODEL": "org/model"}
    services = composed(variants, "loop", **given)["services"]
    on_cpu = "cpu" in variants
    for name, model in (("simulator", "org/user"), ("server", "org/model")):
        service = services[name]
        repository, _, version = service["image"].partition(":v")
        assert repository == f"vllm/vllm-openai{'-cpu' if on_cpu else ''}" and re.fullmatch(r"[\d.]+", version)
        assert "build" not in service and service["entrypoint"] == ["vllm", "serve"]
        assert service["command"][0] == ("/app/sdpo/tiny/model" if on_cpu else model)
        assert ("/app/sdpo/tiny/model" in str(service["volumes"])) == on_cpu
        given_paths = [
            (key, path) for key, path in service["environment"].items() if re.search("HOME$|DIR$|ROOT$", key)
        ]
        written = {key: path for key, path in given_paths if key != "OUTPUT_DIR"}
        assert len(written) == 6 and all(path.startswith(("/tmp", "/cache")) for path in written.values())
        assert "ports" not in service and set(service["networks"]) == {"inside"}
    assert any("disable_any_whitespace" in word for word in services["simulator"]["command"])
    # An adapter of the learner fits, as many as are live at once fit, and the gateway asks by the server's name.
    flags = dict(word.removeprefix("--").split("=") for word in services["server"]["command"] if "=" in word)
    assert int(flags["max-lora-rank"]) >= 32 and int(flags["max-loras"]) == 3
    assert services["gateway"]["environment"]["UPSTREAM_MODEL"] == services["server"]["command"][0]
    assert services["server"]["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


@needs_compose
def test_open_webui_starts_only_if_it_is_asked_for_and_has_a_port_of_this_machine():
    service = composed(["cpu"], "loop", "webui", WEBUI_IMAGE="mine/webui:1")["services"]["webui"]
    assert service["image"] == "mine/webui:1" and service["ports"][0]["host_ip"] == "127.0.0.1"
    environment = service["environment"]
    assert environment["OPENAI_API_BASE_URL"] == "http://gateway:8787/v1"
    headers = json.loads(environment["OPENAI_API_CONFIGS"])["0"]["headers"]
    assert headers == {"X-OpenWebUI-Task": "{{TASK}}", "X-OpenWebUI-Message-Id": "{{MESSAGE_ID}}"}


def test_the_examples_are_valid_and_locked_down():
    manifests = list(yaml.safe_load_all((PROJECT / "examples" / "kubernetes.yaml").read_text("utf-8")))
    pods = [item["spec"]["template"]["spec"] for item in manifests if "template" in item.get("spec", {})]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
    subprocess.run(["bash", "-n", PROJECT / "examples" / "slurm.sh"], check=True)
    yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text("utf-8"))


# Slurm


@pytest.mark.parametrize(("ends", "code"), [(0, 0), (2, 2), (143, 143)])
def test_the_slurm_script_of_offline_training_starts_a_task_on_each_node_and_requeues_a_saved_run(tmp_path, ends, code):
    programs = {
        "bin/scontrol": 'echo "$*" >>calls; [ "$1" = requeue ] || printf "node1\\nnode2\\n"',
        "bin/srun": 'shift; SLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; code=$?; wait; exit $code',
        ".venv/bin/python": f'echo "$NODE_RANK $NNODES $GPUS $MASTER_ADDR $RUN_ID $*" >>calls; exit {ends}',
    }
    for name, text in programs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_NODELIST": "node[1-2]", "JOB_ID": "7", "NNODES": "2", "GPUS_ON_NODE": "8"}
    given = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
    given |= {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", PROJECT / "examples" / "slurm-offline.sh"], cwd=tmp_path, env=given)
    calls = (tmp_path / "calls").read_text().splitlines()
    tasks = [f"{rank} 2 16 node1 slurm-7 -m jobs.train_offline" for rank in (0, 1)]
    assert done.returncode == code and sorted(calls[1:3]) == tasks
    assert calls[3:] == (["requeue 7"] if ends == 143 else [])


# The script between make and Compose


@pytest.fixture
def docker(tmp_path):
    """Return a function that runs the script with a fake docker and returns the lines that this docker recorded."""
    program, log = tmp_path / "docker", tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = info ] && exit\nprintf "%s\\n" "$*" "$DOCKER_UID" "$DOCKER_ENV_FILE" >"{log}"\n'
        f'case "$*" in *"-f - "*) cat >>"{log}" ;; esac\n'
    )
    program.chmod(0o755)

    def call(*arguments: str, **variables: str) -> list[str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        given = {"SDPO_MAKE_VARIABLES": ""} | variables  # not those of the make that runs the tests
        run("docker/compose.sh", *arguments, PATH=path, SCRATCH=str(tmp_path / "runs"), **given)
        return log.read_text().splitlines()

    return call


def test_up_passes_on_names_of_settings_without_their_values(docker):
    recorded = docker("up", "--detach", LR="0.5", ANTHROPIC_API_KEY=SECRET, DOCKER_VARIANT="cpu", OTHER="1")
    assert recorded[0] == "compose -f compose.yaml -f docker/compose.cpu.yaml -f - up --no-build --detach"
    passed = yaml.safe_load("\n".join(recorded[recorded.index("services:") :]))["services"]
    # What is prepared depends on them too: the model, the data.
    assert passed == {name: {"environment": ["ANTHROPIC_API_KEY", "LR"]} for name in ("prep", "trainer")}
    assert SECRET not in str(recorded)


def test_vllm_on_a_cpu_is_three_files_on_top(docker):
    files = "-f compose.yaml -f docker/compose.cpu.yaml -f docker/compose.vllm.yaml -f docker/compose.vllm-cpu.yaml"
    assert docker("config", DOCKER_VARIANT="vllm-cpu")[0] == f"compose {files} config"


def test_both_trainers_get_the_settings(docker):
    recorded = docker("up", LR="0.5", WORLD_SIZE="8", DOCKER_VARIANT="two-nodes")
    passed = yaml.safe_load("\n".join(recorded[recorded.index("services:") :]))["services"]
    assert passed["trainer"] == passed["trainer-2"] == {"environment": ["LR", "WORLD_SIZE"]}


def test_run_passes_on_settings_and_all_make_variables_even_unknown_ones(docker):
    recorded = docker("run", "job", "true", STYLE="my style", TINY="1", LRR="1", SDPO_MAKE_VARIABLES="LRR STYLE")
    words = recorded[0].split(" run ")[1].split()
    names = {words[index + 1] for index, word in enumerate(words) if word == "-e"}
    assert names == {"LRR", "SDPO_MAKE_VARIABLES", "STYLE", "TINY"}
    assert words[-2:] == ["job", "true"] and "-T" in words


def test_a_shells_own_user_and_name_are_no_settings_unless_make_got_them(docker):
    given = {"USER": "me", "NAME": "here", "LR": "1"}
    for made, expected in (("", {"LR"}), ("USER", {"LR", "USER"})):
        words = docker("run", "job", "true", SDPO_MAKE_VARIABLES=made, **given)[0].split(" run ")[1].split()
        names = {words[index + 1] for index, word in enumerate(words) if word == "-e"}
        assert names - {"SDPO_MAKE_VARIABLES"} == expected


def test_the_loop_gets_the_settings_except_the_addresses_that_its_containers_have(docker):
    recorded = docker("loop", "--detach", LR="0.5", UPSTREAM="http://x/v1", GATEWAY_PORT="9", RETENTION_DAYS="30")
    assert recorded[0].endswith("-f - --profile loop up --no-build --detach server gateway learner")
    passed = yaml.safe_load("\n".join(recorded[recorded.index("services:") :]))["services"]
    assert passed == {name: {"environment": ["LR", "RETENTION_DAYS"]} for name in ("gateway", "learner")}
    assert "--profile webui up" in docker("loop", WEBUI_IMAGE="mine/webui:1")[0]
    assert "--profile loop --profile webui down" in docker("down")[0]


def test_the_learners_nights_begin_at_its_hour():
    spec = importlib.util.spec_from_file_location("nightly", PROJECT / "docker" / "nightly.py")
    nightly = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nightly)
    for now, expected in (((2, 59, 0), 60.0), ((3, 0, 0), 86_400.0), ((4, 0, 0), 23 * 3600.0), ((0, 0, 0), 10_800.0)):
        assert nightly.seconds_until(3, datetime(2026, 12, 31, *now, tzinfo=UTC)) == expected
    program = [sys.executable, PROJECT / "docker" / "nightly.py"]
    done = subprocess.run(program, env=environment(LEARN_HOUR="24"), capture_output=True, text=True)
    assert done.returncode == 2 and "LEARN_HOUR=24" in done.stderr
    with subprocess.Popen(program, env=environment(LEARN_HOUR="3"), stdout=subprocess.PIPE, text=True) as waiting:
        assert "at 03:00 UTC" in waiting.stdout.readline()
        waiting.terminate()
        assert waiting.wait(10) == 0


def test_the_loops_containers_get_every_setting_of_a_learner(docker):
    recorded = docker("loop", AUDIT_SETTINGS="AUDIT_N=8", MIN_INTERACTIONS="9", UNLOAD_AFTER="1", LEARN_HOUR="now")
    passed = yaml.safe_load("\n".join(recorded[recorded.index("services:") :]))["services"]
    assert passed["learner"] == {"environment": ["AUDIT_SETTINGS", "MIN_INTERACTIONS", "UNLOAD_AFTER"]}


def test_nothing_runs_as_root_and_the_caller_owns_the_written_files(docker, tmp_path):
    _, user, file, *_ = docker("config")
    assert int(user) == OWNER
    assert (tmp_path / "runs").stat().st_uid == OWNER
    assert file == ("" if (PROJECT / ".env").exists() else ".env.example")


def test_an_unknown_variant_is_reported(docker, tmp_path):
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    output = run("docker/compose.sh", "config", expect=2, PATH=path, DOCKER_VARIANT="tpu", SCRATCH=str(tmp_path))
    assert "DOCKER_VARIANT=tpu" in output


# prepare.py


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"TINY": "1"}, 0, "prepared"),
        ({"TINY": "1", "JOB": "train-online-tdlr"}, 2, "train-online-tldr?"),
        ({"JOB": "simulator"}, 2, "JOB=simulator"),
        ({"JOB": "../train_online_tldr"}, 2, "not a training job"),
        ({"TINY": "1", "TRAIN_JSONL": "mine.jsonl"}, 2, "mine.jsonl"),
        ({"JOB": "train-online-helpsteer"}, 2, "claude-"),
        ({"TINY": "1", "MODEL_NAME_OR_PATH": "nobody/nothing"}, 2, "nobody/nothing"),
    ],
)
def test_preparation_succeeds_or_prints_a_one_line_error(variables, code, message, tmp_path):
    done = subprocess.run(
        [sys.executable, PROJECT / "docker" / "prepare.py"],
        env=environment(HF_HOME=str(tmp_path / "hub"), **variables), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert message in (done.stderr if code else done.stdout)
    assert len(done.stderr.splitlines()) == bool(code)
