"""Credentials from the environment or `.env` reach their servers, and nothing else."""

import base64
import subprocess
import sys

import pytest

from sdpo.tiny import MODEL_DIR
from tests.hub import Hub
from tests.servers import Answer, FakeServer
from tests.worlds import environment, rows_of, run_job, user_by_rule

pytestmark = pytest.mark.slow

TRACK = """
import sys
from types import SimpleNamespace
from sdpo.train.tracking import prepare_tracking
prepare_tracking(SimpleNamespace(output_dir=sys.argv[1], report_to="wandb"))
import wandb
wandb.init()
"""


@pytest.mark.parametrize("key", ["k" * 40, ""])
def test_a_wandb_key_enables_online_tracking(tmp_path, key):
    with FakeServer(lambda body, number: Answer(raw=b'{"data":{}}')) as server:
        variables = {"WANDB_API_KEY": key, "WANDB_BASE_URL": server.root, "WANDB_INIT_TIMEOUT": "20"}
        variables = {name: value for name, value in environment(**variables).items() if name != "WANDB_MODE"}
        subprocess.run([sys.executable, "-c", TRACK, tmp_path], env=variables, capture_output=True, timeout=120)
    shown = {headers.get("Authorization") for headers in server.headers}
    basic = "Basic " + base64.b64encode(f"api:{key}".encode()).decode()
    assert shown == ({basic} if key else set())
    assert (tmp_path / "wandb").exists()


def test_a_hub_token_from_dotenv_reaches_the_hub(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret_token\n")
    with FakeServer(user_by_rule()) as user, Hub("org/private", MODEL_DIR, "hf_secret_token") as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = run_job(user.url, tmp_path / "run", model="org/private", train_n=16, eval_n=8)
    assert set(hub.shown) - {None} == {"Bearer hf_secret_token"}
    assert len(rows_of(tmp_path / "run" / "metrics.jsonl")) == 1
    written = [path.read_text("utf-8", errors="ignore") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any("hf_secret_token" in text for text in [*written, done.stdout, done.stderr])


def test_a_model_that_the_hub_refuses_prints_one_line(tmp_path, monkeypatch):
    with FakeServer(user_by_rule()) as user, Hub("org/private", MODEL_DIR, "right") as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "c"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "wrong"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = run_job(user.url, tmp_path / "run", expect=2, model="org/private")
    assert "Traceback" not in done.stderr and "MODEL=org/private" in done.stderr
    assert "wrong" not in done.stderr.replace("wrong token", "")
