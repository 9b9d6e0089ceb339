"""The log-probabilities of tokens and their hand-written gradient, against autograd in float64."""

import pytest
import torch

from sdpo.method.token_logps import token_logps


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_match_autograd(chunk, with_bias, frozen):
    torch.manual_seed(0)
    hidden_NH, weight_VH = torch.randn(7, 5), 3 * torch.randn(11, 5)
    bias_V = torch.randn(11) if with_bias else None
    ids_N, grad_N = torch.tensor([3, 0, 3, 10, 7, 3, 1]), torch.randn(7)
    inputs = [hidden_NH, *([] if frozen else [weight_VH, *([bias_V] if with_bias else [])])]
    for tensor in inputs:
        tensor.requires_grad_()
    columns_N2 = token_logps(hidden_NH, weight_VH, bias_V, ids_N, chunk, entropy=True)
    (columns_N2[:, 0] * grad_N).sum().backward()

    slow = [tensor.detach().double().requires_grad_() for tensor in inputs]
    weight, bias = (
        (slow[1], slow[2] if with_bias else 0) if not frozen else (weight_VH, 0 if bias_V is None else bias_V)
    )
    logps_NV = (slow[0] @ weight.double().T + bias).log_softmax(-1)
    logps_N = logps_NV[range(7), ids_N]
    (logps_N * grad_N).sum().backward()
    torch.testing.assert_close(columns_N2[:, 0].double(), logps_N, atol=1e-5, rtol=1e-5)
    entropies = -(logps_NV.exp() * logps_NV).sum(-1)
    torch.testing.assert_close(columns_N2[:, 1].double(), entropies, atol=1e-5, rtol=1e-5)
    for tensor, reference in zip(inputs, slow, strict=True):
        torch.testing.assert_close(tensor.grad.double(), reference.grad, atol=1e-5, rtol=1e-4)


def test_large_logits_do_not_overflow():
    hidden_NH, ids_N = torch.tensor([[1000.0, 0.0]]), torch.tensor([1])
    columns_N2 = token_logps(hidden_NH, torch.tensor([[1.0, 0.0], [0.999, 0.0]]), None, ids_N, 4, entropy=True)
    torch.testing.assert_close(columns_N2[0, 0].item(), -1.3132617, atol=1e-3, rtol=0)
    assert columns_N2.isfinite().all()


def test_gradients_have_the_dtype_of_the_weights():
    hidden_NH, weight_VH = (torch.randn(*size).bfloat16().requires_grad_() for size in ((4, 8), (9, 8)))
    columns_N2 = token_logps(hidden_NH, weight_VH, None, torch.tensor([0, 1, 2, 8]), 2, entropy=False)
    assert columns_N2.dtype == torch.float32 and (columns_N2[:, 1] == 0).all()
    columns_N2[:, 0].sum().backward()
    assert hidden_NH.grad.dtype == weight_VH.grad.dtype == torch.bfloat16
