"""Scoring in batches against one row at a time in float64."""

import copy
from random import Random

import pytest
import torch

from sdpo.errors import SettingError
from sdpo.method.scoring import CHUNK, pack_rows, score
from sdpo.method.teacher import Teacher
from sdpo.train.offline.session import pack_rows_if_able


def rows(seed: int, count: int, vocabulary: int, longest: int = 60) -> tuple[list, list]:
    rng = Random(seed)

    def ids() -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(rng.randrange(1, longest))]

    return [ids() for _ in range(count)], [ids() for _ in range(count)]


def reference(model, context: list[int], completion: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities and entropies of one row, from all its logits in float64."""
    logps = copy.deepcopy(model).double()(torch.tensor([context + completion])).logits[0].log_softmax(-1)
    positions = range(len(context) - 1, len(context) + len(completion) - 1)
    entropies = [-(logps[position].exp() * logps[position]).sum() for position in positions]
    token_logps = [logps[position, token] for position, token in zip(positions, completion, strict=True)]
    return torch.stack(token_logps), torch.stack(entropies)


@pytest.mark.parametrize(("batch_size", "packed"), [(None, False), (1, False), (3, False), (None, True), (3, True)])
def test_scores_agree_with_one_row_at_a_time(model, batch_size, packed):
    contexts, completions = rows(0, 7, len(model.lm_head.weight))
    assert not packed or pack_rows(model)
    with torch.no_grad():
        scores = score(model, contexts, completions, batch_size, entropy=True)
        for row, pair in enumerate(zip(contexts, completions, strict=True)):
            logps, entropies = reference(model, *pair)
            length = len(pair[1])
            # Relative to the value: random ids are improbable, and float32 represents -22 to within 2e-6 at best.
            assert ((scores.logps_BT[row, :length] - logps).abs() / logps.abs().clamp(min=1)).max() < 1e-5
            assert (scores.entropy_BT[row, :length] - entropies).abs().max() < 1e-4
            assert scores.mask_BT[row].tolist() == [1.0] * length + [0.0] * (scores.mask_BT.shape[1] - length)
            assert scores.logps_BT[row, length:].abs().sum() == 0


def test_scores_do_not_depend_on_the_order_or_the_other_rows(model):
    contexts, completions = rows(1, 6, len(model.lm_head.weight))
    order = [4, 2, 0, 5, 1, 3]
    with torch.no_grad():
        scores = score(model, contexts, completions)
        shuffled = score(model, [contexts[i] for i in order], [completions[i] for i in order])
    torch.testing.assert_close(shuffled.logps_BT, scores.logps_BT[order], atol=1e-5, rtol=0)


def test_gradient_matches_the_reference(model):
    contexts, completions = rows(2, 3, len(model.lm_head.weight), longest=20)
    weights = torch.randn(3, max(map(len, completions)))
    (score(model, contexts, completions).logps_BT * weights).sum().backward()
    slow = copy.deepcopy(model).double()
    slow.zero_grad()
    loss = 0.0
    for row, (context, completion) in enumerate(zip(contexts, completions, strict=True)):
        logps = slow(torch.tensor([context + completion])).logits[0].log_softmax(-1)
        for index, token in enumerate(completion):
            loss = loss + weights[row, index] * logps[len(context) - 1 + index, token]
    loss.backward()
    for fast_weight, slow_weight in zip(model.parameters(), slow.parameters(), strict=True):
        scale = slow_weight.grad.abs().max()
        assert (fast_weight.grad - slow_weight.grad).abs().max() < 1e-4 * scale + 1e-6


def test_only_the_positions_of_completions_reach_the_head(model, monkeypatch):
    contexts, completions = rows(3, 9, len(model.lm_head.weight), longest=80)
    seen = []
    linear = torch.nn.functional.linear

    def counting(inputs, weight, bias=None):
        if weight.shape == model.lm_head.weight.shape:
            seen.append(inputs.shape[0])
        return linear(inputs, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    with torch.no_grad():
        score(model, contexts, completions)
    assert sum(seen) == sum(map(len, completions))
    assert max(seen) <= CHUNK


def test_scoring_does_not_change_the_model(model):
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    score(model, [[5]], [[6, 7]])
    torch.testing.assert_close(model(ids).logits, before)


def test_an_error_in_the_forward_pass_does_not_change_the_model(model):
    with pytest.raises(IndexError):
        score(model, [[10**9]], [[6]])
    assert model(torch.tensor([[5, 6]])).logits.shape[-1] == len(model.lm_head.weight)


def test_empty_rows_are_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        score(model, [[]], [[1]])
    with pytest.raises(ValueError, match="at least one token"):
        score(model, [[1]], [[]])


def test_a_model_that_changes_its_logits_after_the_head_is_refused(model):
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(SettingError):
        score(model, [[1]], [[2]])


def test_bf16_weights_are_projected_and_normalised_in_float32(model):
    model.to(torch.bfloat16)
    contexts, completions = rows(4, 4, len(model.lm_head.weight))
    with torch.no_grad():
        scores = score(model, contexts, completions)
    assert scores.logps_BT.dtype == torch.float32
    values = scores.logps_BT[scores.mask_BT.bool()]
    # With 8 bits of mantissa, bf16 log-probabilities would have few distinct values.
    assert len(values.unique()) > 0.9 * len(values)


def test_a_live_teacher_changes_with_the_policy_and_a_frozen_one_does_not(model):
    contexts, completions = rows(5, 2, len(model.lm_head.weight))
    teachers = {kind: Teacher(kind, model) for kind in ("live", "frozen")}
    before = {kind: teacher.logps(contexts, completions, 2) for kind, teacher in teachers.items()}
    torch.testing.assert_close(before["live"], before["frozen"])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    torch.testing.assert_close(teachers["frozen"].logps(contexts, completions, 2), before["frozen"])
    assert (teachers["live"].logps(contexts, completions, 2) - before["live"]).abs().max() > 1e-3


def test_packed_rows_have_the_gradient_of_padded_rows(model):
    contexts, completions = rows(6, 4, len(model.lm_head.weight))
    weights = torch.randn(4, max(map(len, completions)))
    padded, packed = copy.deepcopy(model), copy.deepcopy(model)
    assert pack_rows(packed)
    lines = []
    packed.model.register_forward_pre_hook(
        lambda module, _, inputs: lines.append(inputs["input_ids"].shape), with_kwargs=True
    )
    for copied in (padded, packed):
        (score(copied, contexts, completions).logps_BT * weights).sum().backward()
    assert lines == [(1, sum(map(len, [*contexts, *completions])))]
    for first, second in zip(padded.parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=2e-4, rtol=1e-3)


def test_rounding_does_not_keep_rows_from_being_packed(model):
    """In bf16 and 4 bits a real model's scores of padded and packed rows differ by tenths of a nat."""
    assert pack_rows(copy.deepcopy(model).to(torch.bfloat16))
    rounded = copy.deepcopy(model)

    def round_packed(module, inputs, outputs):
        if len(outputs.last_hidden_state) == 1:
            outputs.last_hidden_state *= 1.02
        return outputs

    rounded.model.register_forward_hook(round_packed)
    assert pack_rows(rounded)
    contexts, completions = rows(7, 3, len(model.lm_head.weight))
    with torch.no_grad():
        difference_BT = score(rounded, contexts, completions).logps_BT - score(model, contexts, completions).logps_BT
    assert difference_BT.abs().max() > 0.1


def test_rows_are_not_packed_if_their_positions_go_on(model):
    without_restarts = copy.deepcopy(model)
    forward = without_restarts.model.forward

    def go_on(*args, position_ids=None, **kwargs):
        if position_ids is not None:
            position_ids = torch.arange(position_ids.shape[1])[None]
        return forward(*args, position_ids=position_ids, **kwargs)

    without_restarts.model.forward = go_on
    assert not pack_rows(without_restarts)


def test_rows_are_not_packed_if_the_attention_ignores_restarting_positions(model):
    without_positions = copy.deepcopy(model)
    forward = without_positions.model.forward
    without_positions.model.forward = lambda *args, position_ids=None, **kwargs: forward(*args, **kwargs)
    assert not pack_rows(without_positions)
    assert not pack_rows_if_able(without_positions, "auto")
    with pytest.raises(SettingError, match="LAYOUT=grouped"):
        pack_rows_if_able(without_positions, "packed")
    contexts, completions = rows(7, 3, len(model.lm_head.weight))
    with torch.no_grad():
        torch.testing.assert_close(
            score(without_positions, contexts, completions).logps_BT, score(model, contexts, completions).logps_BT
        )
