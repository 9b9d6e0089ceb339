"""Several processes: the shipped accelerate files, several nodes, and the launch command."""

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

pytestmark = pytest.mark.slow

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


def test_there_is_a_config_file_for_each_distributed_type():
    assert {path.stem for path in SHIPPED} == {"ddp", "ddp_cpu", "fsdp2"}


def test_the_default_accelerate_files_exist():
    assert processes.DDP.is_file() and processes.DDP_CPU.is_file()


def test_the_launch_command_of_several_nodes_has_their_address(tmp_path):
    given = settings(world_size=8, nnodes=2, node_rank=1, master_addr="10.0.0.1", run_id="r", output_dir=tmp_path)
    command, extra = processes.launch_line(given, "jobs.a_job", [])
    options = dict(pairwise(command))
    assert (options["--num_processes"], options["--num_machines"], options["--machine_rank"]) == ("8", "2", "1")
    assert (options["--main_process_ip"], options["--main_process_port"]) == ("10.0.0.1", "29500")
    assert given.processes_here == 4 and extra["RUN_ID"] == "r"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"world_size": 3, "nnodes": 2, "master_addr": "a", "run_id": "r"}, "GPUS=3"),
        ({"world_size": 2, "nnodes": 2, "node_rank": 2, "master_addr": "a", "run_id": "r"}, "NODE_RANK"),
        ({"world_size": 2, "nnodes": 2, "run_id": "r"}, "MASTER_ADDR"),
    ],
)
def test_nodes_that_could_not_connect_are_rejected(values, named):
    with pytest.raises(SettingError, match=named):
        check_nodes(settings(**values))


def test_without_a_gpu_the_processes_get_accelerate_use_cpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    _, extra = processes.launch_line(settings(world_size=2, run_id="r", output_dir="r"), "jobs.a_job", [])
    assert extra["ACCELERATE_USE_CPU"] == "true"


LAUNCHER = """
import pathlib, signal, subprocess, sys
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "signalled").touch())
sys.exit(subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]]).wait())
"""
WORKER = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(43)))
(folder / "ready").touch()
time.sleep(60)
"""


def test_sigterm_goes_to_the_workers_and_not_to_the_launcher(tmp_path):
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), WORKER]
    process = subprocess.Popen(command, start_new_session=True)
    assert until((tmp_path / "ready").exists, 30)
    processes._end(process, signal.SIGTERM)
    assert process.returncode == 43
    assert (tmp_path / "saved").exists() and not (tmp_path / "signalled").exists()
