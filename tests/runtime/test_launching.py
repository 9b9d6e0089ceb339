"""Many processes: the shipped accelerate files, several nodes, and what a launch is told."""

import signal
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from sdpo.errors import SettingError
from sdpo.runtime import processes
from sdpo.runtime.processes import check_nodes
from sdpo.settings import OnlineSettings
from sdpo.settings.resolve import resolve
from tests.servers import until

SHIPPED = sorted(processes.DDP.parent.glob("*.yaml"))


def settings(**values):
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return resolve(OnlineSettings, flags, job="a-job", environment={})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_accelerate_accepts_every_shipped_file(path):
    assert load_config_from_file(str(path)).distributed_type
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "--num_processes", "2", "-m", "job"])
    checked, _, _ = _validate_launch_command(arguments)
    assert checked.num_processes == 2
    if path.stem == "fsdp2":
        assert checked.use_fsdp and str(checked.fsdp_version) == "2"
        assert checked.fsdp_state_dict_type == "FULL_STATE_DICT"
    else:
        assert checked.multi_gpu


def test_there_is_a_file_for_each_way():
    assert {path.stem for path in SHIPPED} == {"ddp", "ddp_cpu", "fsdp2"}


def test_shipped_accelerate_files_are_there():
    assert processes.DDP.is_file() and processes.DDP_CPU.is_file()


def test_several_nodes_are_told_where_they_meet(tmp_path):
    given = settings(world_size=8, nnodes=2, node_rank=1, master_addr="10.0.0.1", run_id="r", output_dir=tmp_path)
    command, extra = processes.launch_line(given, "jobs.a_job", [])
    told = dict(pairwise(command))
    assert (told["--num_processes"], told["--num_machines"], told["--machine_rank"]) == ("8", "2", "1")
    assert (told["--main_process_ip"], told["--main_process_port"]) == ("10.0.0.1", "29500")
    assert given.processes_here == 4 and extra["RUN_ID"] == "r"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"world_size": 3, "nnodes": 2, "master_addr": "a", "run_id": "r"}, "WORLD_SIZE"),
        ({"world_size": 2, "nnodes": 2, "node_rank": 2, "master_addr": "a", "run_id": "r"}, "NODE_RANK"),
        ({"world_size": 2, "nnodes": 2, "run_id": "r"}, "MASTER_ADDR"),
    ],
)
def test_nodes_that_would_not_find_together_are_refused(values, named):
    with pytest.raises(SettingError, match=named):
        check_nodes(settings(**values))


def test_without_a_gpu_the_processes_are_told_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    _, extra = processes.launch_line(settings(world_size=2, run_id="r", output_dir="r"), "jobs.a_job", [])
    assert extra["ACCELERATE_USE_CPU"] == "true"


LAUNCHER = """
import pathlib, signal, subprocess, sys
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "told").touch())
sys.exit(subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]]).wait())
"""
WORKER_VARIABLE = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(43)))
(folder / "ready").touch()
time.sleep(60)
"""


def test_the_workers_are_asked_to_end_and_not_the_launcher_that_would_hurry_them(tmp_path):
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), WORKER_VARIABLE]
    process = subprocess.Popen(command, start_new_session=True)
    assert until((tmp_path / "ready").exists, 30)
    processes._end(process, signal.SIGTERM)
    assert process.returncode == 43
    assert (tmp_path / "saved").exists() and not (tmp_path / "told").exists()
