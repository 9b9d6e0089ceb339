"""Makes the shipped tiny model from nothing: `python -m sdpo.tiny.build OUT_DIR`.

Deterministic for one version of torch: two processes of one thread each share every step's rows. A row holds a
prompt and its continuations side by side; each continuation sees the prompt and itself, so a prompt is read once.
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
    """Return a Qwen3-architecture model of under one million parameters with random weights."""
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
    # Without do_sample here a server treats every temperature as greedy.
    model.generation_config = GenerationConfig(do_sample=True, eos_token_id=end, pad_token_id=pad, max_new_tokens=64)
    return model


def length_of(lesson: TrainingExample) -> int:
    """Return how many tokens a lesson's row has."""
    return len(lesson.prompt) + sum(len(branch.ids) for branch in lesson.branches)


def weight_of(lesson: TrainingExample) -> float:
    """Return how much a lesson counts in the loss: the weight of each token that it teaches."""
    return lesson.weight * sum(len(branch.ids) - branch.reply for branch in lesson.branches)


def collate(lessons: list[TrainingExample]) -> dict[str, torch.Tensor]:
    """Return ids, positions and a (rows, 1, length, length) mask, and where to predict which token."""
    length = max(map(length_of, lessons))
    ids_BT = torch.zeros(len(lessons), length, dtype=torch.long)
    positions_BT = torch.zeros_like(ids_BT)
    mask_BTT = torch.zeros(len(lessons), length, length, dtype=torch.bool)
    mask_BTT[:, range(length), range(length)] = True
    where, targets, weights = [], [], []
    for row, (prompt, branches, weight) in enumerate(lessons):
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
            # The token before a branch's first is the prompt's last, wherever the branch lies.
            before = [start + reply - 1 if reply else len(prompt) - 1, *range(start + reply, stop - 1)]
            where += [(row, place) for place in before]
            targets += ids[reply:]
            weights += [weight] * (len(ids) - reply)
            start = stop
    rows, places = zip(*where, strict=True)
    return {
        "ids_BT": ids_BT,
        "positions_BT": positions_BT,
        "mask_BTT": mask_BTT[:, None],
        "rows_N": torch.tensor(rows),
        "places_N": torch.tensor(places),
        "targets_N": torch.tensor(targets),
        "weights_N": torch.tensor(weights),
    }


def halves(lessons: list[TrainingExample]) -> list[list[TrainingExample]]:
    """Return the lessons as two lists, short and long, so that little is padded.

    Only one step's lessons are ever sorted: steps of one length are steps of one role, and learned far worse.
    """
    ordered = sorted(lessons, key=length_of)
    middle = min(range(1, len(ordered)), key=lambda place: _padded(ordered, place))
    return [ordered[:middle], ordered[middle:]]


def _padded(ordered: list[TrainingExample], middle: int) -> int:
    return middle * length_of(ordered[middle - 1]) + (len(ordered) - middle) * length_of(ordered[-1])


def loss_of(model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the weighted sum of the negative log-probabilities of what is taught."""
    hidden_BTH = model.model(
        input_ids=batch["ids_BT"],
        attention_mask=batch["mask_BTT"],
        position_ids=batch["positions_BT"],
        use_cache=False,
    ).last_hidden_state
    logits_NV = model.lm_head(hidden_BTH[batch["rows_N"], batch["places_N"]])
    losses_N = functional.cross_entropy(logits_NV.float(), batch["targets_N"], reduction="none")
    return (losses_N * batch["weights_N"]).sum()


class TrainingPhase(NamedTuple):
    """Some steps of `rows` lessons each."""

    steps: int
    rows: int
    mix: ExampleMixture


# One side of each axis: what stands in an answer is learned fast where no other taste wants the opposite of it.
_SINGLE_CONTINUATION = {style: float(style in ("no_emojis", "casual", "long")) for style in oracle.tiny_personas()}
_CONTRASTED_CONTINUATIONS = {"no_emojis": 4, "emojis": 4, "casual": 3, "formal": 3, "short": 3, "long": 3}
_ALL_ROLES = ExampleMixture(
    kinds=(0.5, 0.25, 0.25), contexts=(16, 6, 18, 60), system=0.85, reaction_weight=4.0, verdict_weight=8.0
)
_LAST = _ALL_ROLES._replace(kinds=(0.7, 0.2, 0.1), reaction_weight=3.0, verdict_weight=6.0, confusable=0.35)

SCHEDULE = (
    # Copying the post's facts first: on bare posts, where they are easy to find, and in long answers, which have all.
    TrainingPhase(150, 16, ExampleMixture(kinds=(1, 0, 0), contexts=(1, 0, 0, 0), system=0.0, settled={"long": True})),
    TrainingPhase(280, 20, _ALL_ROLES._replace(styles=_SINGLE_CONTINUATION)),
    TrainingPhase(230, 20, _ALL_ROLES._replace(styles=_CONTRASTED_CONTINUATIONS)),
    TrainingPhase(620, 20, _LAST),
)


def build(out_dir: Path, seed: int, course: Sequence[TrainingPhase] = SCHEDULE) -> None:
    """Write a trained model and its tokenizer to a folder.

    Two processes, not two threads: a model this small has matrices too small to be shared out, and a step takes
    about a fifth less time.
    """
    with tempfile.TemporaryDirectory() as meeting:
        multiprocessing.spawn(_work, (f"file://{meeting}/store", out_dir, seed, course), nprocs=PROCESSES)


def _work(rank: int, store: str, out_dir: Path, seed: int, course: Sequence[TrainingPhase]) -> None:
    # torch sends it to a worker whose parent is gone, and a background job may have been told to ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, seed)
    train_on_examples(model, ExampleSampler(tokenizer, seed), course)
    if rank == 0:
        model.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
        print(f"saved {model.num_parameters():,} parameters to {out_dir}")
    distributed.destroy_process_group()


def train_on_examples(model: Qwen3ForCausalLM, tutor: ExampleSampler, course: Sequence[TrainingPhase]) -> None:
    """Train the model through the phases: the rate rises over 30 steps and falls to zero over the last phase.

    Muon, not AdamW alone: with AdamW the model had not learned to copy the post's facts after 500
    steps of the first phase, with Muon it had after 150.
    """
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in model.named_parameters() if weight.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=0.01, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, course)) for optimizer in optimizers
    ]
    started, total = time.monotonic(), sum(phase.steps for phase in course)
    planned = (phase for phase in course for _ in range(phase.steps))
    for step, phase in enumerate(planned, start=1):
        loss = _backward_together(model, [tutor.draw(phase.mix) for _ in range(phase.rows)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 and distributed.get_rank() == 0:
            print(f"step {step}/{total}  loss {loss:.3f}  {time.monotonic() - started:.0f} s", flush=True)


def _backward_together(model: Qwen3ForCausalLM, lessons: list[TrainingExample]) -> float:
    """Set the gradient of the mean loss of all the lessons, of which each process reads its share; return that loss."""
    mine = sorted(lessons, key=length_of)[distributed.get_rank() :: PROCESSES]
    loss = backward(model, mine, total=sum(map(weight_of, lessons)))
    gradients = [weight.grad for weight in model.parameters()]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([loss])])
    distributed.all_reduce(flat)
    *shares, loss = flat.split([*(gradient.numel() for gradient in gradients), 1])
    for gradient, share in zip(gradients, shares, strict=True):
        gradient.copy_(share.view_as(gradient))
    return loss.item()


def backward(model: Qwen3ForCausalLM, lessons: list[TrainingExample], total: float | None = None) -> float:
    """Add the gradient of the lessons' loss and return that loss: a sum over `total`, their weight unless given."""
    total, loss = total or sum(map(weight_of, lessons)), 0.0
    for part in halves(lessons):
        share = loss_of(model, collate(part)) / total
        share.backward()
        loss += share.item()
    return loss


def _schedule(step: int, course: Sequence[TrainingPhase]) -> float:
    last = course[-1].steps
    into_last = max(0, step - sum(phase.steps for phase in course[:-1]))
    return min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * into_last / last))


def main() -> None:
    """Train, save and say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build(arguments.out_dir, arguments.seed)


if __name__ == "__main__":
    main()
