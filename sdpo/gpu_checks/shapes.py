"""Speed and memory of training steps by model size, on random weights: all weights trained, and an adapter.

A step is that of offline training: the teacher's scores under x, o, the policy's under x, loss, backward pass and
optimizer, with packed rows and gradient checkpointing. Weights, optimizer and precision are those of the jobs.
"""

import gc
import time
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from sdpo.gpu_checks.device import peak_tflops, synchronize
from sdpo.gpu_checks.outcome import CheckFailed, Figures, Place, require
from sdpo.gpu_checks.random_models import Rows, random_model, random_rows, step_flops
from sdpo.method.loss import HindsightLoss
from sdpo.method.objective import Objective
from sdpo.method.scoring import pack_rows
from sdpo.method.teacher import Teacher
from sdpo.models.generate import generate_batch
from sdpo.models.policy import adapter_config, hold_trained_weights_in_float32, with_adapter
from sdpo.settings import OfflineSettings

_GB = 1e9
_PARAMETERS = {"0.6b": 0.6e9, "4b": 4.0e9, "8b": 8.2e9, "small": 1e5}
_KINDS = ("lora", "all weights")
_STEP_SECONDS, _MOST_STEPS = 4.0, 5  # for timing one objective
_RESERVE = 8 * _GB  # for activations and the CUDA context, by which it is decided whether to try


def check_06b(place: Place) -> Figures:
    """Measure the shape of Qwen3-0.6B."""
    return _measure_shape(place, "0.6b")


def check_4b(place: Place) -> Figures:
    """Measure the shape of Qwen3-4B."""
    return _measure_shape(place, "4b")


def check_8b(place: Place) -> Figures:
    """Measure the shape of Qwen3-8B."""
    return _measure_shape(place, "8b")


def _measure_shape(place: Place, shape: str) -> Figures:
    """Return the figures of both kinds of training. Raises CheckFailed if neither fits."""
    shape = shape if place.on_gpu else "small"
    figures: Figures = {"shape": shape}
    for kind in _KINDS:
        needed = _PARAMETERS[shape] * (2 if kind == "lora" else 8 + (2 if find_spec("bitsandbytes") else 8)) + _RESERVE
        memory = torch.cuda.get_device_properties(0).total_memory if place.on_gpu else float("inf")
        if needed > memory:
            figures[kind] = {"not run": f"needs about {needed / _GB:.0f} GB of {memory / _GB:.0f}"}
            continue
        try:
            figures[kind] = _measure(place, shape, kind)
        except torch.OutOfMemoryError:
            figures[kind] = {"not run": "ran out of memory", "peak_gb": torch.cuda.max_memory_allocated() / _GB}
        gc.collect()
        if place.on_gpu:
            torch.cuda.empty_cache()
    if all("not run" in figures[kind] for kind in _KINDS):
        raise CheckFailed("neither kind of training fits", figures)
    return figures


def _measure(place: Place, shape: str, kind: str) -> Figures:
    model, optimizer, name = _policy(place, shape, kind == "all weights")
    vocabulary = model.config.get_text_config().vocab_size
    rows = random_rows([(512, 256)] * 4 if place.on_gpu else [(24, 12)] * 2, 64 if place.on_gpu else 8, vocabulary)
    figures: Figures = {"optimizer": name, "precision": "bf16" if place.on_gpu else "fp32", "tokens": rows.tokens}
    for objective in ("token", "full"):
        figures[objective] = _time_steps(place, model, optimizer, Objective(kind=objective), rows)
    figures["memory_gb"] = _memory(model, optimizer)
    figures["generation"] = _time_generation(place, model, vocabulary)
    return figures


def _policy(place: Place, shape: str, trains_all: bool) -> tuple[Any, torch.optim.Optimizer, str]:
    """Return model, optimizer and its name, as a job has them: float32 if all weights are trained, else bf16."""
    model = random_model(shape, torch.float32 if trains_all or not place.on_gpu else torch.bfloat16, place.device)
    pack_rows(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    config = None if trains_all else adapter_config(OfflineSettings(adapter="lora"))
    policy = with_adapter(model, config, gradient_checkpointing=True)
    hold_trained_weights_in_float32(policy)
    # As the Trainer does: bf16 is autocast around the model's own forward pass.
    accelerator = Accelerator(mixed_precision="bf16" if place.on_gpu else "no", cpu=not place.on_gpu)
    policy = accelerator.prepare_model(policy).train()
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    if place.on_gpu and find_spec("bitsandbytes"):
        return policy, _eight_bit(policy, trained), "adamw_8bit"
    return policy, torch.optim.AdamW(trained, lr=1e-6, fused=place.on_gpu or None), "adamw"


def _eight_bit(model: nn.Module, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return 8-bit AdamW as transformers sets it up: with the state of embeddings in 32 bits."""
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    return bitsandbytes.optim.AdamW8bit(trained, lr=1e-6)


def _time_steps(
    place: Place, model: Any, optimizer: torch.optim.Optimizer, objective: Objective, rows: Rows
) -> Figures:
    """Return the seconds of a step after one that warms up, and what follows from them."""
    hindsight = HindsightLoss(Teacher("live", model), objective, batch_size=len(rows.completions))
    weights_B = torch.ones(len(rows.completions), device=place.device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    seconds: list[float] = []
    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    while len(seconds) <= 1 or (sum(seconds[1:]) < _STEP_SECONDS and len(seconds) <= _MOST_STEPS):
        synchronize(place.device)
        started = time.perf_counter()
        targets = hindsight.teacher_targets(rows.contexts, rows.completions)
        result = hindsight.loss(model, rows.contexts, rows.completions, targets, weights_B)
        result.loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(place.device)
        seconds.append(time.perf_counter() - started)
        finite = bool(torch.isfinite(result.loss)) and bool(torch.isfinite(norm))
        require(finite, f"the loss of objective {objective.kind} is {result.loss.item()}, its gradient {norm.item()}")
    mean = sum(seconds[1:]) / (len(seconds) - 1)
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    flops = step_flops(base, rows, trains_all=base is model) / mean
    peak = peak_tflops()
    return {
        "seconds": mean,
        "first_seconds": seconds[0],
        "tokens_per_second": rows.tokens / mean,
        "tflops": flops / 1e12,
        **({"share_of_peak": flops / 1e12 / peak} if peak else {}),
        **({"peak_gb": torch.cuda.max_memory_allocated() / _GB} if place.on_gpu else {}),
    }


def _memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> Figures:
    """Return the GB of weights, gradients and optimizer state, for a plan of memory to be compared with."""
    state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_parameters": sum(weight.numel() for weight in trained),
        "weights": _bytes(list(model.parameters())) / _GB,
        "gradients": _bytes(trained) / _GB,  # in the dtype of the weights
        "optimizer": _bytes(state) / _GB,
    }


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _time_generation(place: Place, model: Any, vocabulary: int) -> Figures:
    """Return the tokens per second of sampling 8 answers of 64 tokens, after a few that warm up."""
    answers, new = (8, 64) if place.on_gpu else (2, 4)
    prompts = [row.prompt for row in random_rows([(128, 1)] * answers, 1, vocabulary).contexts]
    model.eval()
    seconds = 0.0
    with torch.no_grad():
        for count in (2, new):
            config = GenerationConfig(
                max_new_tokens=count, min_new_tokens=count, do_sample=True, eos_token_id=[2], pad_token_id=0
            )
            synchronize(place.device)
            started = time.perf_counter()
            lengths = [len(ids) for ids in generate_batch(model, prompts, config)]
            synchronize(place.device)
            seconds = time.perf_counter() - started
            require(lengths == [count] * answers, f"answers of {lengths} tokens instead of {count}")
    model.train()
    return {"answers": answers, "tokens": new, "tokens_per_second": answers * new / seconds}
