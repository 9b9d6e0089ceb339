"""The build script of the shipped tiny model: a short schedule is reproducible, on two processes as on one."""

from pathlib import Path

import pytest
import torch

from sdpo.tiny import build
from sdpo.tiny.build import backward, build_model
from sdpo.tiny.muon import Muon, orthogonal
from sdpo.tiny.training_data import ExampleMixture, ExampleSampler, build_tokenizer

pytestmark = pytest.mark.slow

MIX = ExampleMixture(kinds=(1, 1, 1), contexts=(1, 1, 1, 1), system=0.5, verdict_weight=3.0, confusable=0.5)
SHORT = (build.TrainingPhase(1, 5, MIX), build.TrainingPhase(2, 5, MIX._replace(settled={"long": True})))


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        build.build(tmp_path / name, seed, SHORT)
    assert weights(tmp_path / "first") == weights(tmp_path / "again") != weights(tmp_path / "other")


def _gradients(rank: int, folder: Path) -> None:
    """Save the gradient of five examples, computed by both processes together and by one alone."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    tokenizer = build_tokenizer(texts=200)
    examples = [ExampleSampler(tokenizer, 3).draw(MIX) for _ in range(5)]
    results = []
    for compute in (build._backward_together, backward):
        model = build_model(len(tokenizer), 2, 0, seed=0)
        loss = compute(model, examples)
        results.append((loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])))
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_compute_the_gradient_of_one(tmp_path):
    torch.multiprocessing.spawn(_gradients, (tmp_path,), nprocs=2)
    (loss, together), (alone_loss, alone) = torch.load(tmp_path / "0.pt")
    (other_loss, other), _ = torch.load(tmp_path / "1.pt")
    assert loss == pytest.approx(alone_loss, rel=1e-5) and loss == other_loss
    assert torch.equal(together, other)
    assert torch.allclose(together, alone, atol=1e-6)
    assert alone.norm() > 0.1


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_muon_agrees_with_that_of_torch_apart_from_rounding(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    weight, torch_weight = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = [Muon([weight], **settings), torch.optim.Muon([torch_weight], **settings)]
    for _ in range(5):
        weight.grad = torch.randn(shape, generator=generator)
        torch_weight.grad = weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (torch_weight - start).norm()
    assert (weight - torch_weight).norm() < 0.02 * moved
    singular = torch.linalg.svdvals(orthogonal(weight.grad))
    assert singular.max() < 1.3 and singular.median() > 0.6
