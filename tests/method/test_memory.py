"""The bytes that an objective holds at once, counted tensor by tensor, so that a busy machine does not matter."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.counting import LiveBytes
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher

VOCABULARY, HIDDEN, LENGTH = 4096, 16, 144
OBJECTIVES = {
    "token": Objective(),
    "full": Objective(kind="full"),
    "forward": Objective(kind="full", direction="forward"),
    "jsd": Objective(kind="full", direction="jsd"),
    "top_k": Objective(kind="top_k"),
    "contrast": Objective(kind="full", null_contrast=True, contrast_strength=6.0, contrast_plausibility=0.05),
}


def peak(objective: Objective, vocabulary: int = VOCABULARY, trained: bool = True) -> LiveBytes:
    """Count a step of two completions of LENGTH tokens, backward pass included, with a head of this vocabulary."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=16, num_hidden_layers=1, head_dim=8,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False,
        )
    )  # fmt: skip
    model.lm_head.weight.requires_grad_(trained)
    model.model.embed_tokens.weight.requires_grad_(trained)
    loss = HindsightLoss(Teacher("live", model), objective, batch_size=2)
    contexts, completions = [Contexts([1, 2], [1, 3, 2], [1, 4, 2])] * 2, [list(range(5, 5 + LENGTH))] * 2
    with LiveBytes() as counted:
        targets = loss.teacher_targets(contexts, completions)
        loss.loss(model, contexts, completions, targets, torch.ones(2)).loss.backward()
    return counted


@pytest.mark.parametrize("trained", [True, False], ids=["head trained", "head frozen"])
def test_no_objective_takes_the_memory_of_a_few_tensors_of_logits(trained):
    logits = 4 * VOCABULARY * LENGTH  # of one of the two completions
    peaks = {name: peak(objective, trained=trained).peak / logits for name, objective in OBJECTIVES.items()}
    assert peaks.pop("token") < (1.9 if trained else 1.1)  # what is kept for the gradient of the head, or half of it
    assert peaks.pop("contrast") < 4.8 and max(peaks.values()) < 3.7, peaks


@pytest.mark.parametrize("name", ["token", "full", "jsd", "top_k"])
def test_memory_grows_with_the_vocabulary_by_the_weights_and_one_chunk(name):
    small, large = (peak(OBJECTIVES[name], vocabulary=size) for size in (VOCABULARY, 2 * VOCABULARY))
    # Per word: the gradients of the head and the embedding, and less than a logit of every token of the batch.
    weights = 4 * VOCABULARY * 2 * HIDDEN
    assert (large.peak - small.peak - weights) / (4 * VOCABULARY) < 2 * 2 * LENGTH
    assert large.largest <= 4 * 2 * VOCABULARY * 256  # one chunk's logits
