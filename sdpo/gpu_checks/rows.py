"""Packed rows against grouped (padded) ones: the same scores and gradients, and the speed of each by attention."""

import gc
import time
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sdpo.errors import one_line
from sdpo.gpu_checks.device import synchronize
from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.gpu_checks.random_models import Rows, random_model, random_rows
from sdpo.method.scoring import pack_rows, score
from sdpo.tiny import MODEL_DIR

# The largest difference of a token's log-probability in nats, and of the gradient as a share of its norm.
_TOLERANCES = {torch.float32: (1e-3, 1e-3), torch.bfloat16: (0.25, 0.1)}
_BF16_MEAN = 0.05  # in nats, between bf16 and float32
_LENGTHS = [(7, 3), (40, 25), (120, 60), (3, 90), (64, 1)]


def check_scores(place: Place) -> Figures:
    """Return how far packed rows are from grouped ones, in float32 and bf16, and bf16 from float32."""
    figures: Figures = {}
    by_dtype: dict[torch.dtype, torch.Tensor] = {}
    for dtype, (nats, share) in _TOLERANCES.items():
        model: Any = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=dtype)
        model.to(place.device)
        rows = random_rows(_LENGTHS, 1, model.config.vocab_size)
        grouped_BT, grouped_gradient = _scores_and_gradient(model, rows)
        require(pack_rows(model), "the attention does not separate packed rows")
        packed_BT, packed_gradient = _scores_and_gradient(model, rows)
        difference = (packed_BT - grouped_BT).abs().max().item()
        gradient = ((packed_gradient - grouped_gradient).norm() / grouped_gradient.norm()).item()
        name, by_dtype[dtype] = str(dtype).removeprefix("torch."), grouped_BT
        figures[name] = {"largest_difference": difference, "gradient_difference": gradient}
        require(difference <= nats, f"packed rows score {difference:.3g} nats off in {name}, expected {nats}", figures)
        require(gradient <= share, f"their gradient is {gradient:.3g} off in {name}, expected {share}", figures)
    error = (by_dtype[torch.bfloat16] - by_dtype[torch.float32]).abs().mean().item()
    require(error <= _BF16_MEAN, f"bf16 is {error:.3g} nats off float32 on average, expected {_BF16_MEAN}", figures)
    return figures | {"bfloat16_mean_error": error}


def _scores_and_gradient(model: Any, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores (B, T) and the gradient of their sum, flat and in float32."""
    model.zero_grad(set_to_none=True)
    logps_BT = score(model, [row.prompt for row in rows.contexts], rows.completions).logps_BT
    logps_BT.sum().backward()
    gradients = [weight.grad.float().flatten() for weight in model.parameters() if weight.grad is not None]
    return logps_BT.detach(), torch.cat(gradients)


def check_speed(place: Place) -> Figures:
    """Return the seconds and the peak memory of scoring with gradient, packed and grouped, by kind of attention.

    The jobs use sdpa. Raises CheckFailed if sdpa cannot be used; other kinds are figures alone.
    """
    figures: Figures = {}
    for attention in ("sdpa", "flash_attention_2", "flex_attention"):
        if reason := _missing(attention, place):
            figures[attention] = {"not run": reason}
            continue
        try:
            figures[attention] = _time(place, attention)
        except Exception as error:
            if attention == "sdpa":
                raise
            figures[attention] = {"not run": f"{type(error).__name__}: {one_line(error, 120)}"}
        gc.collect()
    return figures


def _missing(attention: str, place: Place) -> str | None:
    if attention == "sdpa":
        return None
    if not place.on_gpu:
        return "no CUDA device"
    return "flash_attn not installed" if attention == "flash_attention_2" and not find_spec("flash_attn") else None


def _time(place: Place, attention: str) -> Figures:
    dtype = torch.bfloat16 if place.on_gpu else torch.float32
    model: Any = random_model("0.6b" if place.on_gpu else "small", dtype, place.device, attention)
    scale = 64 if place.on_gpu else 2
    lengths = [(4 * scale, scale), (scale, scale), (12 * scale, 4 * scale), (2 * scale, 2 * scale)] * 2
    rows = random_rows(lengths, 1, model.config.vocab_size)
    grouped = _time_passes(place, model, rows)
    packs = pack_rows(model)
    figures: Figures = {"tokens": rows.tokens, "packs": packs, "grouped": grouped}
    if packs:
        figures["packed"] = _time_passes(place, model, rows)
        figures["packed_to_grouped"] = figures["packed"]["seconds"] / grouped["seconds"]
    return figures


def _time_passes(place: Place, model: Any, rows: Rows) -> Figures:
    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(4):
        synchronize(place.device)
        started = time.perf_counter()
        score(model, [row.prompt for row in rows.contexts], rows.completions).logps_BT.sum().backward()
        model.zero_grad(set_to_none=True)
        synchronize(place.device)
        seconds.append(time.perf_counter() - started)
    mean = sum(seconds[1:]) / (len(seconds) - 1)
    memory = {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if place.on_gpu else {}
    return {"seconds": mean, "tokens_per_second": rows.tokens / mean, **memory}
