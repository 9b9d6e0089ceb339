"""Trains the shipped tiny model from scratch: `python -m sdpo.tiny.build OUT_DIR`.

Deterministic for one version of torch: two processes of one thread each divide the rows of every step. A row holds a
prompt and its continuations one after the other. Each continuation attends to the prompt and itself, so the prompt is
processed once.
"""

import argparse
import math
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed, multiprocessing
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from sdpo.tiny import oracle
from sdpo.tiny.muon import Muon
from sdpo.tiny.training_data import ExampleMixture, ExampleSampler, TrainingExample, build_tokenizer

HIDDEN, LAYERS, HEADS = 128, 4, 4
PROCESSES = 2


def build_model(vocabulary: int, end: int, pad: int, seed: int) -> Qwen3ForCausalLM:
    """Return a model of the Qwen3 architecture with random weights and under one million parameters.

    `vocabulary` is the number of tokens, `end` and `pad` are token ids.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HIDDEN // HEADS,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    # Without do_sample here, a server decodes greedily at every temperature.
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=end, pad_token_id=pad, max_new_tokens=64)
    return model


def length_of(example: TrainingExample) -> int:
    """Return the number of tokens in the row of an example."""
    return len(example.prompt) + sum(len(branch.ids) for branch in example.branches)


def weight_of(example: TrainingExample) -> float:
    """Return the total weight of an example in the loss: the sum over its reply tokens."""
    return example.weight * sum(len(branch.ids) - branch.reply for branch in example.branches)


def collate(examples: list[TrainingExample]) -> dict[str, torch.Tensor]:
    """Return a batch as tensors, for B rows of at most T tokens and N reply tokens.

    `ids_BT` and `positions_BT`; `mask_BTT`, the attention mask of shape (B, 1, T, T); `rows_N` and `columns_N`, the
    indices in (B, T) that predict the reply tokens `targets_N`; and their weights `weights_N`.
    """
    length = max(map(length_of, examples))
    ids_BT = torch.zeros(len(examples), length, dtype=torch.long)
    positions_BT = torch.zeros_like(ids_BT)
    mask_BTT = torch.zeros(len(examples), length, length, dtype=torch.bool)
    mask_BTT[:, range(length), range(length)] = True
    where, targets, weights = [], [], []
    for row, (prompt, branches, weight) in enumerate(examples):
        start = len(prompt)
        ids_BT[row, :start] = torch.tensor(prompt)
        positions_BT[row, :start] = torch.arange(start)
        mask_BTT[row, :start, :start] = torch.ones(start, start, dtype=torch.bool).tril()
        for ids, reply in branches:
            stop = start + len(ids)
            ids_BT[row, start:stop] = torch.tensor(ids)
            positions_BT[row, start:stop] = torch.arange(len(prompt), len(prompt) + len(ids))
            mask_BTT[row, start:stop, : len(prompt)] = True
            mask_BTT[row, start:stop, start:stop] = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            # The first token of a branch is predicted by the last token of the prompt, wherever the branch is.
            before = [start + reply - 1 if reply else len(prompt) - 1, *range(start + reply, stop - 1)]
            where += [(row, position) for position in before]
            targets += ids[reply:]
            weights += [weight] * (len(ids) - reply)
            start = stop
    rows, positions = zip(*where, strict=True)
    return {
        "ids_BT": ids_BT,
        "positions_BT": positions_BT,
        "mask_BTT": mask_BTT[:, None],
        "rows_N": torch.tensor(rows),
        "columns_N": torch.tensor(positions),
        "targets_N": torch.tensor(targets),
        "weights_N": torch.tensor(weights),
    }


def halves(examples: list[TrainingExample]) -> list[list[TrainingExample]]:
    """Return the examples as two lists, short and long, with the least padding.

    Only the examples of one step are sorted. Steps of similar lengths would be steps of one role, and training on these
    was far worse.
    """
    ordered = sorted(examples, key=length_of)
    middle = min(range(1, len(ordered)), key=lambda index: _padded_size(ordered, index))
    return [ordered[:middle], ordered[middle:]]


def _padded_size(ordered: list[TrainingExample], middle: int) -> int:
    """Return the number of tokens, padding included, when the examples are divided at this index."""
    return middle * length_of(ordered[middle - 1]) + (len(ordered) - middle) * length_of(ordered[-1])


def loss_of(model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weighted sum of the negative log-probabilities of the reply tokens."""
    hidden_BTH = model.model(
        input_ids=batch["ids_BT"],
        attention_mask=batch["mask_BTT"],
        position_ids=batch["positions_BT"],
        use_cache=False,
    ).last_hidden_state
    logits_NV = model.lm_head(hidden_BTH[batch["rows_N"], batch["columns_N"]])
    losses_N = functional.cross_entropy(logits_NV.float(), batch["targets_N"], reduction="none")
    return (losses_N * batch["weights_N"]).sum()


class TrainingPhase(NamedTuple):
    """A number of steps with `rows` examples of one mixture each."""

    steps: int
    rows: int
    mix: ExampleMixture


# One value of each axis: the model learns fast to recognize it in an answer if no other style wants the opposite.
_ONE_VALUE_PER_AXIS = {style: float(style in ("no_emojis", "casual", "long")) for style in oracle.tiny_personas()}
_BOTH_VALUES_PER_AXIS = {"no_emojis": 4, "emojis": 4, "casual": 3, "formal": 3, "short": 3, "long": 3}
_ALL_ROLES = ExampleMixture(
    kinds=(0.5, 0.25, 0.25), contexts=(16, 6, 18, 60), system=0.85, reaction_weight=4.0, verdict_weight=8.0
)
_LAST = _ALL_ROLES._replace(kinds=(0.7, 0.2, 0.1), reaction_weight=3.0, verdict_weight=6.0, confusable=0.35)

SCHEDULE = (
    # Copying the post's facts first: on bare posts, where they are easy to find, and in long answers, which have all.
    TrainingPhase(150, 16, ExampleMixture(kinds=(1, 0, 0), contexts=(1, 0, 0, 0), system=0.0, settled={"long": True})),
    TrainingPhase(280, 20, _ALL_ROLES._replace(styles=_ONE_VALUE_PER_AXIS)),
    TrainingPhase(230, 20, _ALL_ROLES._replace(styles=_BOTH_VALUES_PER_AXIS)),
    TrainingPhase(620, 20, _LAST),
)


def build(out_dir: Path, seed: int, phases: Sequence[TrainingPhase] = SCHEDULE) -> None:
    """Train a model and write it and its tokenizer to a folder.

    It uses two processes instead of two threads, because the matrices of a model this small are too small to divide; a
    step takes about a fifth less time.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (f"file://{folder}/store", out_dir, seed, phases), nprocs=PROCESSES)


def _work(rank: int, store: str, out_dir: Path, seed: int, phases: Sequence[TrainingPhase]) -> None:
    # torch sends SIGINT to a worker whose parent has exited, and it may be ignored in a background job.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed)
    train_on_examples(model, ExampleSampler(tokenizer, seed), phases)
    if rank == 0:
        model.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
        print(f"saved {model.num_parameters():,} parameters to {out_dir}")
    distributed.destroy_process_group()


def train_on_examples(model: Qwen3ForCausalLM, sampler: ExampleSampler, phases: Sequence[TrainingPhase]) -> None:
    """Train the model through the phases. The learning rate rises over 30 steps and decays to zero in the last phase.

    The matrices are trained with Muon: with AdamW the model had not learned to copy the post's facts after 500 steps of
    the first phase, with Muon it had after 150.
    """
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=0.01, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, phases)) for optimizer in optimizers
    ]
    started, total = time.monotonic(), sum(phase.steps for phase in phases)
    phase_of_steps = (phase for phase in phases for _ in range(phase.steps))
    for step, phase in enumerate(phase_of_steps, start=1):
        loss = _backward_together(model, [sampler.draw(phase.mix) for _ in range(phase.rows)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 and distributed.get_rank() == 0:
            print(f"step {step}/{total}  loss {loss:.3f}  {time.monotonic() - started:.0f} s", flush=True)


def _backward_together(model: Qwen3ForCausalLM, examples: list[TrainingExample]) -> float:
    """Set the gradient of the weighted mean loss of all examples, divided among the processes, and return that loss."""
    rank_examples = sorted(examples, key=length_of)[distributed.get_rank() :: PROCESSES]
    loss = backward(model, rank_examples, total=sum(map(weight_of, examples)))
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([loss])])
    distributed.all_reduce(flat)
    *sums, total_loss = flat.split([*(gradient.numel() for gradient in gradients), 1])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))
    return total_loss.item()


def backward(model: Qwen3ForCausalLM, examples: list[TrainingExample], total: float | None = None) -> float:
    """Add the gradient of the examples' loss and return that loss: the weighted sum divided by `total`.

    The default of `total` is the total weight of the examples, which makes the loss a weighted mean.
    """
    total, loss = total or sum(map(weight_of, examples)), 0.0
    for part in halves(examples):
        share = loss_of(model, collate(part)) / total
        share.backward()
        loss += share.item()
    return loss


def _schedule(step: int, phases: Sequence[TrainingPhase]) -> float:
    """Return the factor of the learning rate: linear warmup over 30 steps, cosine decay over the last phase."""
    last = phases[-1].steps
    into_last = max(0, step - sum(phase.steps for phase in phases[:-1]))
    return min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * into_last / last))


def main() -> None:
    """Train and save the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build(arguments.out_dir, arguments.seed)


if __name__ == "__main__":
    main()
