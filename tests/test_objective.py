"""The equations against numbers worked by hand and against autograd's gradient of a slow reference."""

import math

import pytest
import torch

from sdpo.objective import row_mean, row_weights, signal, token_loss

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_signal_is_the_difference_and_zero_on_padding():
    teacher = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, 9.0, 9.0]])
    policy = torch.tensor([[-2.0, -2.0, -1.0], [-1.5, -7.0, 3.0]])
    assert signal(teacher, policy, MASK).tolist() == [[1.0, 0.0, -3.0], [1.0, 0.0, 0.0]]


def test_centred_signal_has_each_rows_own_mean_taken_off():
    teacher = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, 9.0, 9.0]])
    policy = torch.tensor([[-2.0, -2.0, -1.0], [-1.5, -7.0, 3.0]])
    # Row one: (1 + 0 - 3) / 3 = -2/3; row two: its only token is its mean.
    expected = torch.tensor([[1 + 2 / 3, 2 / 3, -3 + 2 / 3], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(signal(teacher, policy, MASK, centre=True), expected)


def test_signal_carries_no_gradient():
    policy = torch.randn(2, 3, requires_grad=True)
    assert not signal(torch.randn(2, 3, requires_grad=True), policy, MASK).requires_grad


def test_loss_and_gradient_on_policy_by_hand():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]], requires_grad=True)
    advantages = torch.tensor([[0.3, -0.6, 0.9], [2.0, 5.0, 5.0]])
    loss = token_loss(logps, logps.detach(), advantages, MASK, torch.tensor([1.0, 1.0]), clip=0.2)
    # Every ratio is 1: rows -(0.3 - 0.6 + 0.9) / 3 = -0.2 and -2.0, their mean -1.1.
    assert loss.item() == pytest.approx(-1.1)
    loss.backward()
    # -A / tokens of the row / rows.
    expected = torch.tensor([[-0.3 / 6, 0.6 / 6, -0.9 / 6], [-2.0 / 2, 0.0, 0.0]])
    torch.testing.assert_close(logps.grad, expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 1.0, -1.2, 0.0),  # raised far enough already: clipped, no push
        (0.5, 1.0, -0.5, -0.5),  # still to be raised: not clipped
        (0.5, -1.0, 0.8, 0.0),  # lowered far enough already
        (1.5, -1.0, 1.5, 1.5),  # still to be lowered
        (1.1, 1.0, -1.1, -1.1),  # inside
    ],
)
def test_clip_acts_only_where_the_ratio_has_moved(ratio, advantage, loss, slope):
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    value = token_loss(logps, torch.zeros(1, 1), advantage * one, one, torch.ones(1), clip=0.2)
    assert value.item() == pytest.approx(loss)
    value.backward()
    assert logps.grad.item() == pytest.approx(slope)


def test_rows_without_follow_up_neither_count_nor_shrink_the_step():
    logps, advantages = torch.randn(4, 3), torch.randn(4, 3)
    mask = torch.ones(4, 3)
    usable = torch.tensor([True, False, True, False])
    whole = token_loss(logps, logps, advantages, mask, row_weights(usable, 2, 4), clip=0.2)
    alone = token_loss(logps[usable], logps[usable], advantages[usable], mask[usable], torch.ones(2), clip=0.2)
    torch.testing.assert_close(whole, alone)


def test_a_step_is_the_same_however_it_is_divided():
    logps, advantages, mask = torch.randn(8, 5), torch.randn(8, 5), (torch.rand(8, 5) < 0.8).float()
    usable = torch.tensor([True, True, False, True, True, True, False, True])
    weights = row_weights(usable, 6, 8)
    whole = token_loss(logps, logps, advantages, mask, weights, clip=0.2)
    parts = [
        token_loss(logps[i : i + 2], logps[i : i + 2], advantages[i : i + 2], mask[i : i + 2], weights[i : i + 2], 0.2)
        for i in range(0, 8, 2)
    ]
    torch.testing.assert_close(whole, sum(parts) / 4)


def test_nothing_usable_is_a_step_of_zero():
    weights = row_weights(torch.tensor([False, False]), 0, 2)
    loss = token_loss(torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3), MASK, weights, clip=0.2)
    assert loss.item() == 0.0


def test_row_mean_of_an_empty_row_is_zero():
    assert row_mean(torch.ones(1, 2), torch.zeros(1, 2)).item() == 0.0
