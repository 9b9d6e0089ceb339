"""The memory of a training step on one device: what stays, and the most that each phase of the step adds to it.

All figures are bytes. The formulas count the tensors that the code holds: `sdpo.method` for scores and losses,
transformers' decoder layers, autograd and AdamW for the rest. docs/plan.md says how far they are from measured peaks.

V is the vocabulary, a chunk the positions whose logits are held at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sdpo.plan.step import FLOAT, HALF, Step, passing, residual_size, row_length, saved, value_size
from sdpo.runtime.disk import optimizer_bytes

# Positions whose logits are held at once by the scores of tokens, or half as many where the LM head gets no gradient,
# and by divergences (sdpo.method).
CHUNK, COMPARE_CHUNK = 256, 64
# 4-bit weights with their quantized scales: a byte for two weights, and 8 bits for each 64, 32 for each 16,384.
FOUR_BIT = 0.5 + 1 / 64 + 4 / 16384
# (chunk, vocabulary) tensors that exist at once: in the divergence itself, and again with what its gradient needs.
_COMPARED, _COMPARED_BACKWARD = {"full": 6, "top_k": 4}, {"full": 7, "top_k": 4}
_CONTRAST = 5  # the same for a contrast of distributions


@dataclass(frozen=True)
class Memory:
    """The bytes on one device: what stays during the run by name, and by phase what that phase adds at most."""

    lasting: Mapping[str, float]
    phases: Mapping[str, Mapping[str, float]]

    @property
    def phase(self) -> str:
        """The name of the phase that needs the most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, float]:
        """All parts at the peak."""
        return {**self.lasting, **self.phases[self.phase]}

    @property
    def peak(self) -> float:
        """The highest total."""
        return sum(self.parts.values())


def memory_of(step: Step) -> Memory:
    """Return the memory of an optimizer step after the first one, when the optimizer's state exists."""
    lasting = {
        "weights": _weights(step),
        "teacher": _teacher(step),
        "start model": _start(step),
        "optimizer": _optimizer(step),
    }
    gradients = FLOAT * step.trained / _shards(step)
    if step.processes > 1 and not step.sharded:
        lasting["gradients in transit"] = gradients  # the buckets that the processes exchange
    before = {"gradients": gradients} if step.accumulates else {}
    phases = {
        "teacher": {**before, **_teacher_pass(step)},
        "forward": {**before, **_forward(step)},
        "loss": {**before, **_loss_backward(step)},
        "backward": {"gradients": gradients, **_last_layer_backward(step)},
    }
    if step.answers:
        phases["generation"] = _generation(step)
    return Memory(lasting, phases)


# What stays


def _shards(step: Step) -> int:
    return step.processes if step.sharded else 1


def _weights(step: Step) -> float:
    shape = step.shape
    if step.adapter == "none":
        return FLOAT * shape.parameters / _shards(step)
    adapter = FLOAT * step.trained
    rest = shape.parameters - shape.layers * shape.linear_parameters
    if step.adapter == "qlora":
        kept = HALF if step.bf16 else FLOAT
        return FOUR_BIT * shape.layers * shape.linear_parameters + kept * rest + adapter
    if step.sharded:
        return (FLOAT * shape.parameters + adapter) / step.processes
    return (HALF if step.bf16 else FLOAT) * shape.parameters + adapter


def _copy(step: Step, float32: bool) -> float:
    return (FLOAT if float32 or not step.bf16 else HALF) * step.shape.parameters / _shards(step)


def _teacher(step: Step) -> float:
    """Return the teacher's own weights: none for the live one, nor for a frozen one under an adapter."""
    if step.teacher == "live" or (step.teacher == "frozen" and step.adapter != "none"):
        return 0.0
    return _copy(step, float32=step.teacher == "ema")


def _start(step: Step) -> float:
    if not step.keeps_start or step.teacher == "frozen" or step.adapter != "none":
        return 0.0
    return _copy(step, float32=False)


def _optimizer(step: Step) -> float:
    return optimizer_bytes(step.trained, step.in_32_bits, step.eight_bit) / _shards(step)


# The phases


def _casts(step: Step, layers: int) -> float:
    """Return the copies in bf16 that autocast makes of so many layers' float32 weights, or that FSDP gathers."""
    shape = step.shape
    if step.sharded:
        root = shape.embedding * (1 if shape.tied else 2)
        return (HALF if step.bf16 else FLOAT) * (root + min(2, shape.layers) * shape.layer_parameters)
    return HALF * layers * shape.linear_parameters if step.bf16 and step.adapter == "none" else 0.0


def _head_copy(step: Step) -> float:
    """Return a copy of the LM head in float32, which is made where the weights are not in it already."""
    return FLOAT * step.shape.embedding if step.bf16 and (step.adapter != "none" or step.sharded) else 0.0


def _chunk(step: Step, tokens: int, size: int) -> float:
    return FLOAT * min(tokens, size) * step.shape.vocabulary


def _compared(step: Step, tensors: int) -> float:
    return (tensors + _CONTRAST * step.wide_contrast) * _chunk(step, step.answer_tokens, COMPARE_CHUNK)


def _outputs(step: Step, tokens: int) -> float:
    """Return the hidden states around the LM head: before and after the last norm, and at the needed positions."""
    hidden = step.shape.hidden
    return tokens * 2 * residual_size(step) * hidden + step.answer_tokens * residual_size(step) * hidden


def _kept_targets(step: Step) -> float:
    """Return the teacher's hidden states that a divergence is taken from; log-probabilities hardly count."""
    if step.objective not in ("full", "top_k"):
        return 0.0
    parts = 3 if step.wide_contrast else 1
    if step.objective == "top_k":
        return step.answer_tokens * 40 * 8.0
    return parts * step.answer_tokens * residual_size(step) * step.shape.hidden


def _teacher_pass(step: Step) -> dict[str, float]:
    own_weights = step.teacher != "live"
    casts = 0.0 if own_weights and step.teacher != "ema" else _casts(step, step.shape.layers)
    inside = passing(step, step.hindsight_tokens)
    head = _outputs(step, step.hindsight_tokens)
    sampled = step.objective in ("token", "sft")
    logits = _chunk(step, step.answer_tokens, CHUNK // 2) + _head_copy(step) if sampled else 0.0
    if inside >= head + logits:
        return {"copies of weights": casts, "activations": inside, "logits": 0.0}
    return {"copies of weights": casts, "activations": head + _kept_targets(step), "logits": logits}


def _kept(step: Step) -> float:
    """Return what the policy's forward pass keeps for the backward pass."""
    shape, tokens = step.shape, step.prompt_tokens
    if step.checkpointing:
        kept = shape.layers * tokens * residual_size(step) * shape.hidden
        return kept + (tokens * row_length(step, tokens) if step.masked else 0)  # a byte for each pair of tokens
    return shape.layers * saved(step, tokens, row_length(step, tokens))


def _logits_forward(step: Step) -> float:
    if step.objective in ("token", "sft"):
        return _chunk(step, step.answer_tokens, CHUNK if step.adapter == "none" else CHUNK // 2) + _head_copy(step)
    copies = 2 * _head_copy(step)  # the policy's, and the teacher's
    return _compared(step, _COMPARED[step.objective]) + copies


def _forward(step: Step) -> dict[str, float]:
    inside = passing(step, step.prompt_tokens) if step.checkpointing else 0.0
    head = _outputs(step, step.prompt_tokens)
    logits = _logits_forward(step)
    activations = _kept(step) + _kept_targets(step)
    casts = _casts(step, step.shape.layers)
    if inside >= head + logits:
        return {"copies of weights": casts, "activations": activations + inside, "logits": 0.0}
    return {"copies of weights": casts, "activations": activations + head, "logits": logits}


def _loss_backward(step: Step) -> dict[str, float]:
    """The backward pass of the LM head: all activations are there, and the first gradient is made."""
    head = FLOAT * step.shape.embedding if step.adapter == "none" else 0.0
    if step.objective in ("token", "sft"):
        # Copies of the head are no longer held. They were when the GPU's peaks were measured, which this agrees with.
        kept = _chunk(step, step.answer_tokens, CHUNK) if step.adapter == "none" else 0.0
        gradient, logits = head, kept + 2 * _head_copy(step)
    else:
        # A chunk's gradient of the head comes after that of its logits, and is added to that of the chunks before.
        several = step.answer_tokens > COMPARE_CHUNK
        inside = head * several, _compared(step, _COMPARED_BACKWARD[step.objective])
        after = head * (1 + several), _compared(step, 2)
        gradient, logits = max(inside, after, key=sum)
        logits += 2 * _head_copy(step)
    casts = 0.0 if step.checkpointing and not step.sharded else _casts(step, step.shape.layers)
    activations = _kept(step) + _kept_targets(step) + _outputs(step, step.prompt_tokens)
    parts = {"copies of weights": casts, "activations": activations, "logits": logits}
    return {"gradient of the head": gradient, **parts}


def _last_layer_backward(step: Step) -> dict[str, float]:
    """The backward pass of the first layer and the embedding, the last ones: nearly all gradients are there."""
    shape, tokens = step.shape, step.prompt_tokens
    layer = saved(step, tokens, row_length(step, tokens))
    gradients = tokens * (2 * value_size(step) * shape.inner + 2 * residual_size(step) * shape.hidden)
    # The embedding's gradient is as large as the embedding; tied weights have that of the LM head already.
    own = FLOAT * shape.embedding if step.adapter == "none" else 0.0
    embedding = own if shape.tied or step.accumulates else 0.0
    inside, outside = (
        layer + gradients - (0.0 if shape.tied else own),
        tokens * residual_size(step) * shape.hidden + embedding,
    )
    casts = _casts(step, 1)
    if inside >= outside:
        return {"copies of weights": casts, "activations": layer + gradients, "embedding": 0.0}
    return {"copies of weights": casts, "activations": outside - embedding, "embedding": embedding}


def _generation(step: Step) -> dict[str, float]:
    """Sampling: keys and values of all tokens so far, and the logits of one position a row."""
    shape, tokens = step.shape, step.answers * (step.prompt + step.completion)
    cache = 2 * shape.layers * tokens * shape.narrow * value_size(step)
    prompt = step.answers * step.prompt
    return {
        "copies of weights": _casts(step, shape.layers),
        "cache": cache,
        "activations": passing(step, prompt),
        "logits": 4 * FLOAT * step.answers * shape.vocabulary,
    }
