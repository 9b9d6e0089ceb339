"""The two forward passes of an online step against a baseline with three: seconds and peak memory.

    python -m benchmarks.scoring [--batch 4] [--repeats 5]

The baseline does what a straightforward trainer does: it pads prompts and completions to the longest, scores `x` and
`x, o` without gradient and `x` again with gradient, and takes log_softmax over the logits of every position in the
model's precision. Each variant runs in a process of its own, so that their peak memory can be compared.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.variants import compare, timed
from sdpo.method.objective import signal, token_loss
from sdpo.method.scoring import score

VOCABULARY = 32_768


def build_model() -> Qwen3ForCausalLM:
    """Return a small model whose vocabulary is large enough for the logits to cost as much as in practice."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
        )
    )  # fmt: skip


def draw_rows(rng: Random, count: int) -> tuple[list, list, list]:
    """Return prompts, hindsight contexts and completions with the lengths of real conversations."""

    def ids(shortest: int, longest: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(rng.randrange(shortest, longest))]

    prompts = [ids(50, 600) for _ in range(count)]
    return prompts, [prompt + ids(40, 110) for prompt in prompts], [ids(64, 500) for _ in range(count)]


Rows = list[list[int]]


def trainer_step(model: Qwen3ForCausalLM, prompts: Rows, hindsight: Rows, completions: Rows) -> None:
    """Run two forward passes with the logits of the completions only, and the backward pass."""
    with torch.no_grad():
        teacher = score(model, hindsight, completions)
    policy = score(model, prompts, completions)
    advantages = signal(teacher.logps_BT, policy.logps_BT, policy.mask_BT, centre=True)
    weights = torch.ones(len(prompts))
    token_loss(policy.logps_BT, policy.logps_BT.detach(), advantages, policy.mask_BT, weights, 0.2).backward()


def baseline_step(model: Qwen3ForCausalLM, prompts: Rows, hindsight: Rows, completions: Rows) -> None:
    """Run three forward passes with the logits of every position, and the backward pass."""
    with torch.no_grad():
        (old, mask), (teacher, _) = (padded_scores(model, contexts, completions) for contexts in (prompts, hindsight))
    advantages = signal(teacher, old, mask, centre=True)
    policy, _ = padded_scores(model, prompts, completions)
    token_loss(policy, old, advantages, mask, torch.ones(len(prompts)), 0.2).backward()


def padded_scores(model: Qwen3ForCausalLM, contexts: Rows, completions: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and mask (B, T); contexts are padded on the left, completions on the right."""
    width, longest = max(map(len, completions)), max(map(len, contexts))
    pairs = list(zip(contexts, completions, strict=True))
    ids = torch.tensor([[0] * (longest - len(x)) + x + y + [0] * (width - len(y)) for x, y in pairs])
    attended = torch.tensor(
        [[0] * (longest - len(x)) + [1] * (len(x) + len(y)) + [0] * (width - len(y)) for x, y in pairs]
    )
    logps = model(input_ids=ids, attention_mask=attended, use_cache=False).logits.log_softmax(-1)
    mask = attended[:, longest:].float()
    return logps[:, longest - 1 : -1].gather(-1, ids[:, longest:, None]).squeeze(-1) * mask, mask


def measure(variant: str, batch: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step and the increase of the process's peak memory in GB."""
    torch.set_num_threads(2)
    model, rng = build_model(), Random(0)

    def steps() -> Iterator[Callable[[], None]]:
        for _ in range(repeats):
            yield partial({"trainer": trainer_step, "baseline": baseline_step}[variant], model, *draw_rows(rng, batch))
            model.zero_grad()

    return timed(steps())


if __name__ == "__main__":
    compare("benchmarks.scoring", __doc__, ("baseline", "trainer"), measure, batch=4, repeats=5)
