"""Every objective's loss and gradient against a slow reference: one row at a time, all logits, in float64."""

import copy
import math
import weakref

import pytest
import torch

from sdpo.method import comparison, scoring
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import UNFOCUSED_WEIGHT, Objective, row_weights
from sdpo.method.shared_prefix import takes_trees
from sdpo.method.teacher import Teacher
from tests.small import VOCABULARY, small_model

ROWS = [
    (Contexts([1, 2, 3], [1, 2, 9, 9, 3], [1, 2, 8, 3]), [4, 5, 6, 7, 8]),
    (Contexts([7], [7, 30, 31], [7, 20]), [11, 12]),
    (Contexts([5, 6, 5, 6], [5, 9], [5, 6, 40]), [13, 14, 15]),
]
CONTEXTS, COMPLETIONS = [row[0] for row in ROWS], [row[1] for row in ROWS]
WEIGHTS = row_weights(torch.tensor([True, False, True]), 2, 3)


def log_softmax(model, context, completion) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([[*context, *completion]])).logits[0]
    return logits[len(context) - 1 : -1].log_softmax(-1)


def slow_loss(policy, teacher, objective: Objective) -> torch.Tensor:
    """The loss computed directly from its definition, with both models in float64."""
    total, marks = 0.0, []
    for (contexts, completion), weight in zip(ROWS, WEIGHTS, strict=True):
        ids = torch.tensor(completion)[:, None]
        policy_TV = log_softmax(policy, contexts.prompt, completion)
        with torch.no_grad():
            target_TV = log_softmax(teacher, contexts.hindsight, completion)
            if objective.null_contrast:
                null_TV = log_softmax(teacher, contexts.null, completion)
                bare_TV = log_softmax(teacher, contexts.prompt, completion)
                target_TV = slow_contrast(target_TV, null_TV, bare_TV, objective)
        first = objective.ignore_first_k
        if objective.kind == "token":
            signal_T = (target_TV - policy_TV.detach()).gather(-1, ids).squeeze(-1)[first:]
            if objective.clip_signal:
                signal_T = signal_T.clamp(-objective.clip_signal, objective.clip_signal)
            if objective.centre and len(signal_T):
                signal_T = signal_T - signal_T.mean()
            values_T = -signal_T * policy_TV.gather(-1, ids).squeeze(-1)[first:]
        else:
            values_T = torch.stack(
                [
                    slow_divergence(p, q, objective)
                    for p, q in zip(policy_TV[first:], target_TV.log_softmax(-1)[first:], strict=True)
                ]
                or [torch.zeros(())]
            )
        if objective.focus:
            moved_T = slow_shift(teacher, contexts, completion) >= objective.focus
            marks += moved_T.tolist()
            values_T = values_T * torch.where(moved_T, 1.0, UNFOCUSED_WEIGHT)
        total = total + weight * (values_T.sum() / max(len(completion) - first, 1))
    assert not objective.focus or 0 < sum(marks) < len(marks)
    return total / len(ROWS)


def slow_contrast(hindsight_TV, null_TV, bare_TV, objective: Objective) -> torch.Tensor:
    """The contrast computed token by token."""
    target_TV = bare_TV.clone()
    for position, (hindsight_V, null_V, bare_V) in enumerate(zip(hindsight_TV, null_TV, bare_TV, strict=True)):
        for token, difference in enumerate((hindsight_V - null_V).tolist()):
            size = max(abs(difference) - objective.contrast_margin, 0.0)
            shares = [(logps_V[token] - logps_V.max()).exp() for logps_V in (hindsight_V, bare_V)]
            if difference > 0 and objective.contrast_plausibility > max(shares):
                size = 0.0
            target_TV[position, token] += objective.contrast_strength * math.copysign(size, difference)
    return target_TV


def slow_shift(teacher, contexts: Contexts, completion: list[int]) -> torch.Tensor:
    """How much the follow-up changes the teacher's log-probability of each token of the completion, in nats."""
    with torch.no_grad():
        shown_TV, bare_TV = (log_softmax(teacher, ids, completion) for ids in (contexts.hindsight, contexts.prompt))
    return (shown_TV - bare_TV).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1).abs()


def slow_divergence(policy_V, target_V, objective: Objective) -> torch.Tensor:
    p, q = policy_V.exp(), target_V.exp()
    if objective.kind == "top_k":
        top = q.topk(objective.top_k).indices
        p, q = (torch.cat((probs[top], 1 - probs[top].sum()[None])) for probs in (p, q))
    if objective.direction == "reverse":
        return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))
    if objective.direction == "forward":
        return sum(b * torch.log(b / a) for a, b in zip(p, q, strict=True))
    return sum(
        a * torch.log(2 * a / (a + b)) / 2 + b * torch.log(2 * b / (a + b)) / 2 for a, b in zip(p, q, strict=True)
    )


OBJECTIVES = [
    Objective(),
    Objective(centre=False, clip_signal=0.5),
    Objective(null_contrast=True),
    Objective(ignore_first_k=2),
    *(Objective(kind="full", direction=direction) for direction in ("reverse", "forward", "jsd")),
    *(Objective(kind="top_k", top_k=5, direction=direction) for direction in ("reverse", "forward", "jsd")),
    Objective(kind="full", null_contrast=True, ignore_first_k=1),
    Objective(focus=0.5),
    Objective(kind="full", focus=0.5),
    Objective(kind="full", direction="forward", focus=0.5),
    Objective(kind="top_k", top_k=5, direction="forward", focus=0.5),
    Objective(kind="top_k", top_k=3, null_contrast=True),
    Objective(null_contrast=True, contrast_strength=2.0),
    Objective(kind="full", direction="jsd", null_contrast=True, contrast_strength=2.0),
    Objective(kind="top_k", top_k=3, null_contrast=True, contrast_strength=2.0),
    Objective(kind="full", null_contrast=True, contrast_strength=0.5, ignore_first_k=1),
    Objective(null_contrast=True, contrast_margin=0.02),
    Objective(kind="full", null_contrast=True, contrast_strength=3.0, contrast_margin=0.02),
    Objective(kind="full", null_contrast=True, contrast_strength=3.0, contrast_plausibility=0.8),
    Objective(kind="top_k", top_k=3, null_contrast=True, contrast_margin=0.02, contrast_plausibility=0.8),
]


@pytest.mark.parametrize("trains_head", [True, False], ids=["head trained", "head frozen"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_loss_and_gradient_match_the_slow_reference(objective, trains_head, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 3)
    monkeypatch.setattr(comparison, "COMPARE_CHUNK", 3)
    policy, other = small_model(0), small_model(1)
    for weight, start in zip(other.parameters(), policy.parameters(), strict=True):
        weight.data = 0.7 * start.data + 0.3 * weight.data  # a teacher close to the policy, as in training
    policy.lm_head.weight.requires_grad_(trains_head)
    slow_policy = copy.deepcopy(policy).double()
    loss = HindsightLoss(Teacher("frozen", other), objective, batch_size=2)
    result = loss.loss(policy, CONTEXTS, COMPLETIONS, loss.teacher_targets(CONTEXTS, COMPLETIONS), WEIGHTS)
    result.loss.backward()
    reference = slow_loss(slow_policy, copy.deepcopy(other).double(), objective)
    reference.backward()
    if objective.kind != "token":  # with a ratio of 1 the value of the token objective is 0, only its gradient matters
        assert result.loss.item() == pytest.approx(reference.item(), rel=1e-4)
    assert (policy.lm_head.weight.grad is not None) == trains_head
    for weight, slow in zip(policy.parameters(), slow_policy.parameters(), strict=True):
        if not weight.requires_grad:
            continue
        scale = slow.grad.abs().max()
        assert scale > 0 and (weight.grad - slow.grad).abs().max() < 1e-3 * scale + 1e-7


@pytest.mark.parametrize("kind", ["token", "full", "top_k"])
def test_the_strength_of_the_contrast_changes_the_loss_only_with_null_contrast(kind):
    def gradient(**changes) -> torch.Tensor:
        policy = small_model(0)
        loss = HindsightLoss(Teacher("frozen", small_model(1)), Objective(kind=kind, top_k=3, **changes), batch_size=2)
        loss.loss(policy, CONTEXTS, COMPLETIONS, loss.teacher_targets(CONTEXTS, COMPLETIONS), WEIGHTS).loss.backward()
        return policy.lm_head.weight.grad

    assert torch.equal(gradient(contrast_strength=2.0), gradient())
    once, twice = gradient(null_contrast=True), gradient(null_contrast=True, contrast_strength=2.0)
    assert (once - twice).abs().max() > 0.01 * once.abs().max()


def test_the_reported_signal_is_that_of_the_sampled_tokens_for_every_objective():
    policy, teacher = small_model(0), Teacher("frozen", small_model(1))
    signals = []
    for kind in ("token", "full", "top_k"):
        loss = HindsightLoss(teacher, Objective(kind=kind, top_k=4), batch_size=3)
        targets = loss.teacher_targets(CONTEXTS, COMPLETIONS)
        signals.append(loss.loss(policy, CONTEXTS, COMPLETIONS, targets, WEIGHTS).signal_BT)
    torch.testing.assert_close(signals[0], signals[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(signals[0], signals[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("trains_head", [True, False], ids=["head trained", "head frozen"])
@pytest.mark.parametrize("kind", ["token", "full", "top_k"])
def test_no_tensor_with_a_vocabulary_axis_is_saved_for_the_backward_pass(kind, trains_head, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 2)
    monkeypatch.setattr(comparison, "COMPARE_CHUNK", 2)
    saved = []

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(weakref.ref(tensor))
        return tensor

    policy = small_model(0)
    policy.lm_head.weight.requires_grad_(trains_head)
    loss = HindsightLoss(Teacher("live", policy), Objective(kind=kind, top_k=4), batch_size=3)
    targets = loss.teacher_targets(CONTEXTS, COMPLETIONS)
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda x: x):
        result = loss.loss(policy, CONTEXTS, COMPLETIONS, targets, WEIGHTS)
    shapes = [tensor.shape for reference in saved if (tensor := reference()) is not None]
    weight = policy.lm_head.weight.shape
    assert result.loss.requires_grad
    assert shapes and not [shape for shape in shapes if VOCABULARY in shape and shape != weight]


@pytest.mark.parametrize("kind", ["token", "full", "top_k"])
def test_the_teacher_takes_one_forward_pass_for_all_contexts_of_a_batch(kind):
    policy = small_model(0)
    counted = []
    assert takes_trees(policy)  # before counting: it runs the model
    policy.model.register_forward_pre_hook(lambda *_: counted.append(1))
    for contrast, focus in ((False, 0.0), (True, 0.0), (False, 0.1), (True, 0.1)):
        counted.clear()
        objective = Objective(kind=kind, null_contrast=contrast, focus=focus)
        loss = HindsightLoss(Teacher("live", policy), objective, batch_size=2)
        loss.teacher_targets(CONTEXTS, COMPLETIONS)
        assert len(counted) == loss.forwards == 2


@pytest.mark.parametrize("kind", ["token", "full", "top_k"])
def test_focus_marks_the_tokens_where_the_follow_up_moves_the_teacher(kind, monkeypatch):
    monkeypatch.setattr(comparison, "COMPARE_CHUNK", 2)
    model = small_model(1)
    moved = [slow_shift(model, *row) for row in ROWS]
    between = torch.cat(moved).median().item() + 1e-4
    loss = HindsightLoss(Teacher("frozen", model), Objective(kind=kind, top_k=3, focus=between), batch_size=2)
    targets = loss.teacher_targets(CONTEXTS, COMPLETIONS)
    assert [target.moved_T.tolist() for target in targets] == [(shift_T >= between).tolist() for shift_T in moved]
    assert all(target.moved == any(target.moved_T.tolist()) for target in targets)
    loss = HindsightLoss(Teacher("frozen", model), Objective(kind=kind, top_k=3, focus=1000.0), batch_size=2)
    assert not any(target.moved for target in loss.teacher_targets(CONTEXTS, COMPLETIONS))


@pytest.mark.parametrize("kind", ["token", "full", "top_k"])
def test_tokens_that_are_ignored_are_not_moved_by_a_follow_up(kind):
    model = small_model(1)
    expected = [(slow_shift(model, *row) >= 1e-4).tolist() for row in ROWS]
    objective = Objective(kind=kind, top_k=3, focus=1e-4, ignore_first_k=2)
    targets = HindsightLoss(Teacher("frozen", model), objective, batch_size=2).teacher_targets(CONTEXTS, COMPLETIONS)
    assert any(row[:2] != [False, False] for row in expected)
    assert [target.moved_T.tolist() for target in targets] == [[False, False, *row[2:]] for row in expected]


def test_ignoring_the_first_tokens_does_not_depend_on_the_other_rows():
    policy, loss = small_model(0), None
    gradients = []
    for rows in ([0], [0, 1]):
        policy.zero_grad()
        loss = HindsightLoss(Teacher("frozen", small_model(1)), Objective(ignore_first_k=2), batch_size=2)
        contexts, completions = [CONTEXTS[row] for row in rows], [COMPLETIONS[row] for row in rows]
        weights = torch.tensor([float(len(rows)), 0.0][: len(rows)])
        loss.loss(policy, contexts, completions, loss.teacher_targets(contexts, completions), weights).loss.backward()
        gradients.append(policy.lm_head.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert loss.has_trainable_tokens([1, 2, 3]) and not loss.has_trainable_tokens([1, 2])


def test_a_hindsight_context_equal_to_the_prompt_gives_no_gradient():
    policy = small_model(0)
    same = [Contexts(row.prompt, row.prompt, row.prompt) for row in CONTEXTS]
    for kind in ("token", "full"):
        policy.zero_grad()
        loss = HindsightLoss(Teacher("live", policy), Objective(kind=kind), batch_size=3)
        loss.loss(policy, same, COMPLETIONS, loss.teacher_targets(same, COMPLETIONS), WEIGHTS).loss.backward()
        assert max(weight.grad.abs().max() for weight in policy.parameters()) < 1e-5


def test_targets_of_another_objective_are_refused():
    policy = small_model(0)
    teacher = Teacher("live", policy)
    of_token = HindsightLoss(teacher, Objective(), 3).teacher_targets(CONTEXTS, COMPLETIONS)
    for objective, error in (
        (Objective(kind="full"), TypeError),
        (Objective(kind="top_k"), TypeError),
        (Objective(focus=0.1), ValueError),
    ):
        with pytest.raises(error):
            HindsightLoss(teacher, objective, 3).loss(policy, CONTEXTS, COMPLETIONS, of_token, WEIGHTS)


def test_null_contrast_needs_a_null_context_for_every_row():
    loss = HindsightLoss(Teacher("live", small_model(0)), Objective(null_contrast=True), 3)
    with pytest.raises(ValueError, match="null"):
        loss.teacher_targets([*CONTEXTS[:2], Contexts([1], [1, 2])], COMPLETIONS)


@pytest.mark.parametrize("changes", [{"contrast_margin": 0.1}, {"contrast_plausibility": 0.8}], ids=str)
@pytest.mark.parametrize("kind", ["full", "top_k"])
def test_the_margin_and_the_plausibility_of_the_contrast_change_the_target(kind, changes):
    def loss_of(**values) -> float:
        objective = Objective(kind=kind, top_k=3, null_contrast=True, contrast_strength=3.0, **values)
        loss = HindsightLoss(Teacher("frozen", small_model(1)), objective, batch_size=2)
        targets = loss.teacher_targets(CONTEXTS, COMPLETIONS)
        return loss.loss(small_model(0), CONTEXTS, COMPLETIONS, targets, WEIGHTS).loss.item()

    assert abs(loss_of() - loss_of(**changes)) > 1e-3 * loss_of()
