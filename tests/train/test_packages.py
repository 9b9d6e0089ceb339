"""Settings that need a package which is not installed are refused before a model is loaded."""

import json

import pytest

from sdpo.errors import SettingError
from sdpo.models.policy import load_policy
from sdpo.runtime.processes import ACCELERATE
from sdpo.settings import OfflineSettings
from sdpo.train import job, session
from sdpo.train.arguments import training_arguments
from sdpo.train.job import check_outside, check_training
from tests.training import write_model

FSDP2 = ACCELERATE / "fsdp2.yaml"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Return a function that returns settings, where bitsandbytes is not installed and tracking is off."""
    monkeypatch.setattr(job, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return lambda **values: OfflineSettings(output_dir=tmp_path / "run", run_id="run", **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adapter": "qlora"}, r"^ADAPTER=qlora needs .* set ADAPTER=lora\.$"),
        ({"optimizer": "adamw_8bit"}, r"^OPTIMIZER=adamw_8bit, .* needs .* set OPTIMIZER=adamw,"),
    ],
)
def test_what_is_asked_for_is_refused_by_the_check(settings, values, message):
    check_training(settings(), "train-offline")
    with pytest.raises(SettingError, match=message):
        check_training(settings(**values), "train-offline")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"has quantized weights \(bitsandbytes\), .* Set ADAPTER=lora"),
        ({"adapter": "lora", "teacher": "ema"}, r"^TEACHER=ema updates .* Choose TEACHER=frozen"),
        ({"adapter": "lora", "teacher": "gated"}, r"^TEACHER=gated updates "),
        ({"adapter": "lora", "teacher": "frozen"}, None),
    ],
)
def test_quantized_weights_take_an_adapter_alone(settings, values, message, tmp_path):
    path = write_model(tmp_path / "model") / "config.json"
    content = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"quantization_config": content}), "utf-8")
    given = settings(model=str(path.parent), **values)
    if message is None:
        check_outside(given, "model")
        return
    with pytest.raises(SettingError, match=message):
        check_outside(given, "model")
    with pytest.raises(SettingError, match=message):
        load_policy(given, bf16=False)


@pytest.mark.parametrize("values", [{"adapter": "qlora"}, {"optimizer": "adamw_8bit"}])
def test_what_fsdp_cannot_shard_is_refused_by_the_check_and_where_a_launcher_shards(settings, values, monkeypatch):
    monkeypatch.setattr(job, "find_spec", lambda name: object())
    check_training(settings(**values), "train-offline")
    with pytest.raises(SettingError, match="FSDP"):
        check_training(settings(**values, accelerate_config=FSDP2), "train-offline")
    training_arguments(settings(**values))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingError, match="FSDP"):
        training_arguments(settings(**values))


def test_the_default_optimizer_on_a_gpu_is_refused_when_the_run_starts(settings, monkeypatch):
    assert training_arguments(settings())["optim"] == "adamw_torch_fused"
    monkeypatch.setattr(session.torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingError, match=r"^OPTIMIZER=auto, here 8-bit AdamW"):
        training_arguments(settings())
    monkeypatch.setattr(job, "find_spec", lambda name: object())
    assert training_arguments(settings())["optim"] == "adamw_bnb_8bit"
    assert training_arguments(settings())["bf16"] is True
