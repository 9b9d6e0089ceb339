"""LoRA and QLoRA: both train on a CPU, their adapters load with plain peft, and can be merged."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from sdpo.method.scoring import score
from sdpo.models.policy import load_model, write_merged_model
from sdpo.study import run as study
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.users import OracleUser

pytestmark = pytest.mark.slow

LORA = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
CONTEXTS, COMPLETIONS = [[5, 6, 7]], [[8, 9, 10]]


def train_adapter(folder, teacher: str, four_bit: bool = False) -> study.OnlineTrainer:
    trainer = study.build_trainer(
        str(folder), teacher, 0, 2, OracleUser({"emoji": False}), peft_config=LORA, four_bit=four_bit,
        learning_rate=1e-3, save_strategy="steps", save_steps=2,
    )  # fmt: skip
    trainer.train()
    return trainer


def logps(model) -> torch.Tensor:
    with torch.no_grad():
        return score(model.eval(), CONTEXTS, COMPLETIONS).logps_BT


@pytest.mark.parametrize("teacher", ["live", "frozen", "ema"])
def test_lora_trains_and_its_adapter_loads_with_plain_peft(teacher, tmp_path):
    trainer = train_adapter(tmp_path, teacher)
    start = load_model(str(MODEL_DIR))[1]
    assert (logps(trainer.model) - logps(start)).abs().max() > 1e-4
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL_DIR), tmp_path / "checkpoint-2")
    torch.testing.assert_close(logps(loaded), logps(trainer.model), atol=1e-4, rtol=1e-4)
    if teacher == "frozen":
        teacher_logps = trainer.hindsight.teacher.logps(CONTEXTS, COMPLETIONS, 1)
        torch.testing.assert_close(teacher_logps, logps(start), atol=1e-4, rtol=1e-4)
    write_merged_model(str(MODEL_DIR), tmp_path / "checkpoint-2", tmp_path / "merged")
    _, merged = load_model(str(tmp_path / "merged"))
    torch.testing.assert_close(logps(merged), logps(trainer.model), atol=1e-3, rtol=1e-3)


def test_qlora_trains_on_4_bit_weights_and_its_adapter_loads_with_plain_peft(tmp_path):
    pytest.importorskip("bitsandbytes")
    trainer = train_adapter(tmp_path, "frozen", four_bit=True)
    weight_types = {type(weight).__name__ for weight in trainer.model.parameters()}
    assert "Params4bit" in weight_types
    adapter = [weight for name, weight in trainer.model.named_parameters() if "lora_B" in name]
    assert all(weight.dtype == torch.float32 for weight in adapter)
    assert any(weight.abs().max() > 0 for weight in adapter)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL_DIR), tmp_path / "checkpoint-2")
