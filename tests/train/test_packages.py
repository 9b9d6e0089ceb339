"""Settings that need a package which is not installed are refused before a model is loaded."""

import pytest

from sdpo.errors import SettingError
from sdpo.runtime.processes import ACCELERATE
from sdpo.settings import OfflineSettings
from sdpo.train import job, session
from sdpo.train.arguments import training_arguments
from sdpo.train.job import check_training

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
