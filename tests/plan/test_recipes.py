"""The settings files in examples/: planned to fit what they are named after, and trained with the tiny model."""

import dataclasses
import os

import pytest

from sdpo.plan.fit import fits_of
from sdpo.plan.plan import plan_of
from sdpo.settings.resolve import resolve
from sdpo.tiny import MODEL_DIR
from sdpo.train.job import check_training
from sdpo.train.offline.session import OfflineSession
from sdpo.train.online.session import OnlineSession
from tests.commands import JOBS, ROOT, clean_environment
from tests.servers import FakeServer
from tests.training import write_interactions
from tests.worlds import rows_of, user_by_rule

SIZES = {"24gb-qwen3-4b": 24, "8x80gb": 80}
# What a machine without GPUs needs, and rows that the tiny model reads.
HERE = {"model": MODEL_DIR, "world_size": 1, "save_steps": 1, "log_steps": 1, "guard": "off"}
LENGTHS = {"max_completion_tokens": 24, "hindsight_template": "framed"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)  # for the accelerate file that a settings file names


def settings_with(example: str, job: str, **values):
    module = JOBS[f"jobs.{job}"]
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    path = ROOT / "examples" / example / "settings.env"
    return resolve(module.settings, flags, job=module.name, defaults=module.defaults, dotenv=path)


@pytest.mark.parametrize("example", SIZES)
@pytest.mark.parametrize("job", ["train_offline", "train_offline_wildfeedback", "train_online_tldr"])
def test_a_recipe_fits_what_it_is_named_after(example, job):
    user = {"simulator_url": "http://127.0.0.1:9/v1"} if job == "train_online_tldr" else {}
    settings = settings_with(example, job, **user)
    assert any(source.startswith(".env") for source in settings.sources.values())
    fit = next(row for row in fits_of(plan_of(settings)) if row.size == SIZES[example])
    assert fit.fits and fit.fits_shared


@pytest.mark.slow
@pytest.mark.parametrize("example", SIZES)
def test_a_recipe_trains_the_tiny_model_offline(example, tmp_path):
    rows = write_interactions(tmp_path / "rows.jsonl", 32)
    values = HERE | LENGTHS | {"train_jsonl": rows, "epochs": 1, "output_dir": tmp_path / "run"}
    trained(OfflineSession, settings_with(example, "train_offline", **values), "train_offline")


@pytest.mark.slow
@pytest.mark.parametrize("example", SIZES)
def test_a_recipe_trains_the_tiny_model_online_with_a_user_by_url(example, tmp_path):
    world = MODEL_DIR.parent / "data"
    values = HERE | LENGTHS | {"train_jsonl": world / "train.jsonl", "train_n": 8, "output_dir": tmp_path / "run"}
    values |= {"style": "no_emojis", "user_model_name_or_path": MODEL_DIR, "user_trial": "off"}
    with FakeServer(user_by_rule()) as server:
        settings = settings_with(example, "train_online_tldr", simulator_url=server.url, **values)
        trained(OnlineSession, dataclasses.replace(settings, user_states_satisfaction=False), "train_online_tldr")


def trained(kind, settings, job: str) -> None:
    settings = dataclasses.replace(settings, run_id="run")
    check_training(settings, "train-offline")
    assert kind(settings, JOBS[f"jobs.{job}"]).run()
    metrics = rows_of(settings.output_dir / "metrics.jsonl")
    assert metrics and all(row["loss"] == row["loss"] for row in metrics)
    kept = [path.name for path in settings.output_dir.glob("checkpoint-*")]
    assert 0 < len(kept) <= settings.save_limit
    has_adapter = (settings.output_dir / kept[0] / "adapter_config.json").exists()
    assert has_adapter == (settings.adapter != "none")
