"""An adapter whose policy vLLM generates for: what TRL does to the base weights for it is undone. vLLM is not run."""

from types import SimpleNamespace

import pytest
import torch
from trl import RLOOTrainer

from sdpo.errors import SettingError
from sdpo.train.online.job import _check_generation
from tests.training import session_of, write_model


def test_4_bit_weights_are_refused():
    settings = SimpleNamespace(generation="vllm_server", adapter="qlora", vllm_url="http://localhost:8000")
    with pytest.raises(
        SettingError, match=r"GENERATION=vllm_server does not work with ADAPTER=qlora: .* Give ADAPTER="
    ):
        _check_generation(settings)


def test_an_address_without_its_way_of_generation_is_refused():
    settings = SimpleNamespace(generation="transformers", adapter="lora", vllm_url="http://localhost:8000")
    with pytest.raises(SettingError, match="VLLM_URL is for GENERATION=vllm_server"):
        _check_generation(settings)


def test_giving_vllm_the_weights_leaves_those_under_the_adapter_as_they_are(tmp_path, monkeypatch):
    model = write_model(tmp_path / "model")
    run = session_of(
        "train_online_tldr", tmp_path / "run", model=model, adapter="lora", lora_rank=4, precision="bf16", guard="off"
    )
    trainer, policy = run.trainer, run.trainer.model
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)

    def generate(self, *_):  # what TRL does to the policy, in VLLMGeneration._iter_named_params
        policy.merge_adapter()
        policy.unmerge_adapter()
        self._last_loaded_step += 1
        return [[1]]

    monkeypatch.setattr(RLOOTrainer, "_generate_single_turn", generate)
    trainer._last_loaded_step = -1
    base = {name: weight.detach().clone() for name, weight in policy.named_parameters() if "base_layer" in name}
    assert base and all(weight.dtype == torch.bfloat16 for weight in base.values())

    def unchanged():
        trainer._generate_single_turn()
        now = dict(policy.named_parameters())
        return all(torch.equal(now[name], weight) for name, weight in base.items())

    trainer.use_vllm = True
    assert unchanged() and unchanged()
    trainer.use_vllm = False
    assert not unchanged()  # rounding would have changed them
