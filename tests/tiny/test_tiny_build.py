"""The script that makes the shipped tiny model: a course of a few steps is the same twice, and learns."""

from pathlib import Path

import pytest
import torch

from sdpo.tiny import build
from sdpo.tiny.build import backward, build_model
from sdpo.tiny.muon import Muon, orthogonal
from sdpo.tiny.training_data import ExampleMixture, ExampleSampler, build_tokenizer

MIX = ExampleMixture(kinds=(1, 1, 1), contexts=(1, 1, 1, 1), system=0.5, verdict_weight=3.0, confusable=0.5)
SHORT = (build.TrainingPhase(1, 5, MIX), build.TrainingPhase(2, 5, MIX._replace(settled={"long": True})))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        build.build(tmp_path / name, seed, SHORT)
    assert weights(tmp_path / "first") == weights(tmp_path / "again") != weights(tmp_path / "other")


def _gradients(rank: int, folder: Path) -> None:
    """Leave the gradient of five lessons: of both processes together, and of one alone."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    tokenizer = build_tokenizer(texts=200)
    lessons = [ExampleSampler(tokenizer, 3).draw(MIX) for _ in range(5)]
    found = []
    for compute in (build._backward_together, backward):
        model = build_model(len(tokenizer), 2, 0, seed=0)
        loss = compute(model, lessons)
        found.append((loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])))
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    torch.multiprocessing.spawn(_gradients, (tmp_path,), nprocs=2)
    (loss, together), (alone_loss, alone) = torch.load(tmp_path / "0.pt")
    (other_loss, other), _ = torch.load(tmp_path / "1.pt")
    assert loss == pytest.approx(alone_loss, rel=1e-5) and loss == other_loss
    assert torch.equal(together, other)
    assert torch.allclose(together, alone, atol=1e-6)
    assert alone.norm() > 0.1


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_muon_steps_as_torch_s_own_but_for_its_rounding(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = [Muon([ours], **settings), torch.optim.Muon([theirs], **settings)]
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
    singular = torch.linalg.svdvals(orthogonal(ours.grad))
    assert singular.max() < 1.3 and singular.median() > 0.6
