"""A model with a few thousand random weights, for tests that need gradients but no language."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 50


def small_model(seed: int = 0, tied: bool = True) -> Qwen3ForCausalLM:
    """Return the same random model for the same seed."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, tie_word_embeddings=tied, initializer_range=0.4,
        )
    )  # fmt: skip
