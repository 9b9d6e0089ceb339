"""Models of random weights in the shapes of published ones, made on the device, and rows of random tokens."""

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from sdpo.method.loss import Contexts
from sdpo.plan import work
from sdpo.plan.shapes import known_config, shape_of

_ROPE = {"rope_type": "default", "rope_theta": 1e6}
SHAPES: dict[str, dict[str, Any]] = {
    **{
        size: known_config(f"Qwen/Qwen3-{size.upper()}") | {"max_position_embeddings": 40960, "rope_parameters": _ROPE}
        for size in ("0.6b", "4b", "8b")
    },
    # For CPUs.
    "small": {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "intermediate_size": 128, "tie_word_embeddings": True},
}


@dataclass(frozen=True)
class Rows:
    """Rows of random tokens: the contexts x and x, o of each, and its completion."""

    contexts: list[Contexts]
    completions: list[list[int]]

    @property
    def tokens(self) -> int:
        """The number of tokens of prompts and completions, without the follow-ups."""
        return sum(len(row.prompt) + len(ids) for row, ids in zip(self.contexts, self.completions, strict=True))


def random_rows(lengths: list[tuple[int, int]], follow_up: int, vocabulary: int, seed: int = 0) -> Rows:
    """Return rows whose prompt and completion have these lengths, each with a follow-up of so many tokens."""
    generator = Random(seed)

    def ids(count: int) -> list[int]:
        return [generator.randrange(3, vocabulary) for _ in range(count)]

    contexts, completions = [], []
    for prompt_length, completion_length in lengths:
        prompt = ids(prompt_length)
        contexts.append(Contexts(prompt, [*ids(follow_up), *prompt]))
        completions.append(ids(completion_length))
    return Rows(contexts, completions)


def random_model(
    shape: str, dtype: torch.dtype, device: str, attention: str = "sdpa", seed: int = 0
) -> PreTrainedModel:
    """Return a model of this shape with random weights, made on the device."""
    torch.manual_seed(seed)
    config = Qwen3Config(**SHAPES[shape], bos_token_id=None, eos_token_id=2, pad_token_id=0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def forward_flops(model: PreTrainedModel, length: int, predicted: int) -> tuple[float, float, float]:
    """Return the floating-point operations of a row's forward pass: of its layers' weights, its attention, its head.

    `length` is the row's number of tokens, `predicted` that of the positions that reach the LM head.
    """
    config: Any = model.config.get_text_config()
    return work.forward_flops(shape_of(config.to_dict(), "model"), length, predicted)


def step_flops(model: PreTrainedModel, rows: Rows, trains_all: bool) -> float:
    """Return the operations that a training step needs: the teacher's pass, the policy's, and the backward pass.

    What is computed again in the backward pass to save memory is not counted. Under an adapter the base weights have no
    gradient, which saves half of their share of the backward pass.
    """
    total, backward = 0.0, 2.0 if trains_all else 1.0
    for context, completion in zip(rows.contexts, rows.completions, strict=True):
        total += sum(forward_flops(model, len(context.hindsight) + len(completion), len(completion)))
        weights, attention, head = forward_flops(model, len(context.prompt) + len(completion), len(completion))
        total += (weights + head) * (1 + backward) + attention * 3
    return total
