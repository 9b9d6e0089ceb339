"""The equations against values computed by hand and against the autograd gradient of a slow reference."""

import math

import pytest
import torch

from sdpo.method.objective import (
    after_first,
    contrast,
    divergence,
    divergence_loss,
    focus_weights,
    row_mean,
    row_weights,
    signal,
    token_loss,
    with_tail,
)

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_signal_is_the_difference_of_log_probabilities_and_zero_on_padding():
    teacher = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, 9.0, 9.0]])
    policy = torch.tensor([[-2.0, -2.0, -1.0], [-1.5, -7.0, 3.0]])
    assert signal(teacher, policy, MASK).tolist() == [[1.0, 0.0, -3.0], [1.0, 0.0, 0.0]]


def test_centring_subtracts_the_mean_of_each_row():
    teacher = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, 9.0, 9.0]])
    policy = torch.tensor([[-2.0, -2.0, -1.0], [-1.5, -7.0, 3.0]])
    # Row one: the mean is (1 + 0 - 3) / 3 = -2/3. Row two: the mean is its only token.
    expected = torch.tensor([[1 + 2 / 3, 2 / 3, -3 + 2 / 3], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(signal(teacher, policy, MASK, centre=True), expected)


def test_signal_carries_no_gradient():
    policy = torch.randn(2, 3, requires_grad=True)
    assert not signal(torch.randn(2, 3, requires_grad=True), policy, MASK).requires_grad


def test_loss_and_gradient_on_policy_by_hand():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]], requires_grad=True)
    advantages = torch.tensor([[0.3, -0.6, 0.9], [2.0, 5.0, 5.0]])
    loss = token_loss(logps, logps.detach(), advantages, MASK, torch.tensor([1.0, 1.0]), clip=0.2)
    # Every ratio is 1: the rows are -(0.3 - 0.6 + 0.9) / 3 = -0.2 and -2.0, and their mean is -1.1.
    assert loss.item() == pytest.approx(-1.1)
    loss.backward()
    # -A / (tokens in the row) / (rows).
    expected = torch.tensor([[-0.3 / 6, 0.6 / 6, -0.9 / 6], [-2.0 / 2, 0.0, 0.0]])
    torch.testing.assert_close(logps.grad, expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 1.0, -1.2, 0.0),  # already raised enough: clipped, no gradient
        (0.5, 1.0, -0.5, -0.5),  # still to be raised: not clipped
        (0.5, -1.0, 0.8, 0.0),  # already lowered enough: clipped, no gradient
        (1.5, -1.0, 1.5, 1.5),  # still to be lowered
        (1.1, 1.0, -1.1, -1.1),  # inside the range
    ],
)
def test_clipping_acts_only_on_ratios_outside_the_range(ratio, advantage, loss, slope):
    logps = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    value = token_loss(logps, torch.zeros(1, 1), advantage * one, one, torch.ones(1), clip=0.2)
    assert value.item() == pytest.approx(loss)
    value.backward()
    assert logps.grad.item() == pytest.approx(slope)


def test_unusable_rows_do_not_change_the_loss():
    logps, advantages = torch.randn(4, 3), torch.randn(4, 3)
    mask = torch.ones(4, 3)
    usable = torch.tensor([True, False, True, False])
    complete = token_loss(logps, logps, advantages, mask, row_weights(usable, 2, 4), clip=0.2)
    alone = token_loss(logps[usable], logps[usable], advantages[usable], mask[usable], torch.ones(2), clip=0.2)
    torch.testing.assert_close(complete, alone)


def test_a_step_does_not_depend_on_its_division_into_micro_batches():
    logps, advantages, mask = torch.randn(8, 5), torch.randn(8, 5), (torch.rand(8, 5) < 0.8).float()
    usable = torch.tensor([True, True, False, True, True, True, False, True])
    weights = row_weights(usable, 6, 8)
    complete = token_loss(logps, logps, advantages, mask, weights, clip=0.2)
    parts = [
        token_loss(logps[i : i + 2], logps[i : i + 2], advantages[i : i + 2], mask[i : i + 2], weights[i : i + 2], 0.2)
        for i in range(0, 8, 2)
    ]
    torch.testing.assert_close(complete, sum(parts) / 4)


def test_the_loss_is_zero_without_usable_rows():
    weights = row_weights(torch.tensor([False, False]), 0, 2)
    loss = token_loss(torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3), MASK, weights, clip=0.2)
    assert loss.item() == 0.0


def test_row_mean_of_an_empty_row_is_zero():
    assert row_mean(torch.ones(1, 2), torch.zeros(1, 2)).item() == 0.0


# Divergences over the vocabulary.

P, Q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("reverse", 0.5 * math.log(2) + 0.25 * math.log(1 / 2)),
        ("forward", 0.25 * math.log(1 / 2) + 0.5 * math.log(2)),
        # The mixture is 3/8, 3/8, 1/4; both distributions have the same divergence from it.
        ("jsd", 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)),
    ],
)
def test_divergences_by_hand(direction, expected):
    assert divergence(P.log(), Q.log(), direction).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(P.log(), P.log(), direction).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("direction", ["reverse", "forward", "jsd"])
def test_the_gradient_of_a_divergence_is_that_of_finite_differences(direction):
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 6, dtype=torch.float64).log_softmax(-1)
    assert torch.autograd.gradcheck(lambda x: divergence(x.log_softmax(-1), target, direction), (logits,))
    few = torch.tensor([[0, 3], [1, 2], [4, 5], [0, 5]])

    def coarse(x):
        tailed = with_tail(x.log_softmax(-1).gather(-1, few))
        return divergence(tailed, with_tail(target.gather(-1, few)), direction)

    assert torch.autograd.gradcheck(coarse, (logits,))


def test_the_tail_is_what_is_left_and_stays_finite_where_nothing_is():
    with_rest = with_tail(torch.tensor([[0.5, 0.3]]).log()).exp()
    torch.testing.assert_close(with_rest, torch.tensor([[0.5, 0.3, 0.2]]))
    assert torch.isfinite(with_tail(torch.tensor([[0.75, 0.25]]).log())).all()


def test_a_coarser_view_never_sees_more_divergence():
    torch.manual_seed(1)
    policy, target = torch.randn(8, 20).log_softmax(-1), torch.randn(8, 20).log_softmax(-1)
    ids = target.topk(5).indices
    for direction in ("reverse", "forward", "jsd"):
        coarse = divergence(with_tail(policy.gather(-1, ids)), with_tail(target.gather(-1, ids)), direction)
        assert (coarse <= divergence(policy, target, direction) + 1e-6).all() and (coarse > -1e-6).all()


def test_reverse_kl_over_the_vocabulary_has_the_token_objectives_gradient_in_expectation():
    torch.manual_seed(2)
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    target = torch.randn(7, dtype=torch.float64).log_softmax(-1)
    divergence(logits.log_softmax(-1)[None], target[None], "reverse").sum().backward()
    full, logits.grad = logits.grad.clone(), None
    logps = logits.log_softmax(-1)
    # Each token as the sampled one, weighted by its probability.
    expected = sum(
        logps[token].exp().detach() * -(target[token] - logps[token]).detach() * logps[token] for token in range(7)
    )
    expected.backward()
    torch.testing.assert_close(full, logits.grad)


def test_divergence_loss_is_a_mean_of_rows_and_not_of_tokens():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 9.0, 9.0]])
    # Rows 2 and 10, weighted 1 and 0.5, over two rows.
    assert divergence_loss(values, MASK, torch.tensor([1.0, 0.5])).item() == pytest.approx(3.5)


def test_after_first_masks_the_first_tokens_of_each_row():
    assert after_first(MASK, 1).tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert torch.equal(after_first(MASK, 0), MASK)


def test_a_signal_is_clipped_before_it_is_centred():
    teacher, policy = torch.tensor([[-1.0, -2.0, -9.0], [0.0, 0.0, 0.0]]), torch.tensor([[-2.0, -2.0, -1.0], [0, 0, 0]])
    clipped = signal(teacher, policy, MASK, limit=2.0)
    assert clipped[0].tolist() == [1.0, 0.0, -2.0]
    centred = signal(teacher, policy, MASK, centre=True, limit=2.0)
    torch.testing.assert_close(centred[0], clipped[0] + 1 / 3)


def test_contrast_subtracts_the_effect_of_a_null_follow_up():
    # The same change with the user's and a null follow-up comes from the template: the bare output remains.
    assert contrast(torch.tensor(-3.0), torch.tensor(-3.0), torch.tensor(-1.0)).item() == -1.0
    assert contrast(torch.tensor(-5.0), torch.tensor(-3.0), torch.tensor(-1.0)).item() == -3.0


def test_the_strength_of_a_contrast_is_the_factor_of_what_the_follow_up_changes():
    hindsight, null, bare = (torch.tensor(values) for values in ([-5.0, -2.0], [-3.0, -2.5], [-1.0, -4.0]))
    # The differences are -2 and +0.5.
    for strength, expected in ((1.0, [-3.0, -3.5]), (2.0, [-5.0, -3.0]), (0.5, [-2.0, -3.75]), (0.0, [-1.0, -4.0])):
        assert contrast(hindsight, null, bare, strength).tolist() == expected
    assert contrast(hindsight, null, bare).tolist() == contrast(hindsight, null, bare, 1.0).tolist()


def test_tokens_outside_the_focus_have_a_small_weight():
    assert focus_weights(torch.tensor([1.0, 0.0, 1.0])).tolist() == pytest.approx([1.0, 0.1, 1.0])
