"""The policy: loading it, quantized or not, adding an adapter, and merging the adapter at the end."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_utils import align_special_tokens

from sdpo.models.inspection import check_adapter, quantization_of
from sdpo.models.pretrained import load_tokenizer, load_weights
from sdpo.settings.inputs import check_quantized

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings


def load_model(
    name: str, dtype: torch.dtype = torch.float32, four_bit: bool = False
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return (tokenizer, model).

    The default is float32 for weights that are trained, because bf16 would lose small updates. With `four_bit` the
    weights are NF4 and `dtype` is the compute dtype. Raises SettingError if the model cannot be found or read.
    """
    arguments: dict[str, Any] = {}
    if four_bit:
        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        arguments["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.is_available() else "cpu"}
    tokenizer = load_tokenizer(name, "MODEL")
    model = load_weights(name, "MODEL", dtype, **arguments)
    keep_gradients(model)  # also of weights that are 4-bit ones in the model's files
    return tokenizer, model


def keep_gradients(model: PreTrainedModel) -> None:
    """Keep 4-bit layers on a CPU from repacking their weights when a model in evaluation mode runs.

    On CPUs with bf16 instructions bitsandbytes repacks them for a kernel that passes no gradient on, and never back:
    after the first generated answer only the adapters of the last layers would have been trained.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def load_policy(settings: "TrainingSettings", bf16: bool) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return (tokenizer, model) for a training job, without the adapter, which is known to fit the model.

    Raises SettingError as `load_model` does, for an adapter that does not fit, and for quantized weights that the
    settings cannot train.
    """
    # Under an adapter the base weights are never updated, so they need no more precision than the computation. FSDP
    # requires one dtype for all weights of a layer, and the adapter's are float32.
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    dtype = torch.bfloat16 if bf16 and settings.adapter != "none" and not is_sharded else torch.float32
    check_quantized(settings, quantization_of(settings.model))
    tokenizer, model = load_model(settings.model, dtype, settings.adapter == "qlora")
    config = adapter_config(settings)
    if config is not None:
        check_adapter(model, config)
    return tokenizer, model


def adapter_config(settings: "TrainingSettings") -> LoraConfig | None:
    """Return the configuration of the adapter to train, or None if all weights are trained."""
    if settings.adapter == "none":
        return None
    targets = settings.lora_targets
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft only divides it, so a float works
        lora_dropout=settings.lora_dropout,
        target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split(",")],
        task_type="CAUSAL_LM",
    )


def with_adapter(
    model: PreTrainedModel, config: LoraConfig | None, gradient_checkpointing: bool
) -> PreTrainedModel | PeftModel:
    """Return the model with a new adapter, for a trainer that does not add it itself; without one as it is.

    Only the adapter's weights then require a gradient.
    """
    if config is None:
        return model
    if gradient_checkpointing:
        model.enable_input_require_grads()
    return get_peft_model(model, config)


def hold_trained_weights_in_float32(model: torch.nn.Module) -> None:
    """Convert the trained weights to float32, whatever the dtype of the base weights."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


@contextmanager
def weights_in_bf16(model: torch.nn.Module) -> Iterator[None]:
    """Hold the float32 weights in bf16 inside the context; after it the very same float32 values are back."""
    saved = {weight: weight.data for weight in model.parameters() if weight.dtype == torch.float32}
    try:
        for weight, data in saved.items():
            weight.data = data.to(torch.bfloat16)
        yield
    finally:
        for weight, data in saved.items():
            weight.data = data


def adapted_weights(model: torch.nn.Module) -> dict[torch.nn.Parameter, torch.Tensor]:
    """Return the base weights that an adapter adds to, each with a copy on the CPU."""
    layers: list[Any] = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return {layer.weight: layer.weight.detach().to("cpu", copy=True) for layer in layers}


def restore_weights(saved: Mapping[torch.nn.Parameter, torch.Tensor]) -> None:
    """Set each weight to its copy."""
    for weight, copy in saved.items():
        weight.data.copy_(copy)


def write_merged_model(base: str, adapter: Path, out: Path) -> None:
    """Write the base model with the adapter merged into its weights, and its tokenizer, to the folder `out`.

    The folder is written completely or not at all; what is in it already is replaced.
    The base model is loaded again in its original precision: merging into a quantized one would round to 4 bits.
    """
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), str(adapter))
    merged, tokenizer = model.merge_and_unload(), load_tokenizer(base, "MODEL")
    align_special_tokens(merged, tokenizer)  # a server of the merged model ends answers as training did
    temporary = out.with_name(f".{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    merged.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
