"""Several contexts in one pass against a pass for each, and what the one pass saves."""

from random import Random

import pytest
import torch
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

from benchmarks.counting import counted_passes
from sdpo.method import shared_prefix
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import Objective
from sdpo.method.scoring import at_positions, pack_rows, score
from sdpo.method.shared_prefix import at_positions_of_each, score_of_each, takes_trees
from sdpo.method.teacher import Teacher
from sdpo.method.trees import common_length
from sdpo.models.generate import generate_batch
from sdpo.models.prompt_cache import CacheKeeper, GeneratedCache
from tests.small import VOCABULARY, small_model

OBJECTIVE = Objective(kind="full", null_contrast=True)


def rows(template: str, count: int = 7, seed: int = 0) -> tuple[list[Contexts], list[list[int]]]:
    """Rows with the follow-up where the template puts it; one row in three has none, so its contexts are equal."""
    rng = Random(seed)

    def ids(shortest: int, longest: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(rng.randint(shortest, longest))]

    contexts = []
    for number in range(count):
        history, prompt, null = ids(4, 20), ids(1, 20), ids(2, 4)
        shown = ids(3, 9) if number % 3 else []
        null = null if shown else []
        at = {"after": len(history + prompt), "before": len(history), "system": 0}[template]
        x = history + prompt
        contexts.append(Contexts(x, x[:at] + shown + x[at:], x[:at] + null + x[at:]))
    return contexts, [ids(1, 12) for _ in range(count)]


def hidden(start: int, stop: int):
    return lambda hidden_NH, head: hidden_NH


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("template", ["after", "before", "system"])
def test_one_pass_agrees_with_a_pass_for_each_context(template, packed):
    model = small_model().eval()
    assert not packed or pack_rows(model)
    contexts, completions = rows(template)
    lists = [[row.prompt for row in contexts], [row.hindsight for row in contexts], [row.null for row in contexts]]
    with torch.no_grad():
        together, forwards = at_positions_of_each(model, lists, completions, 3, hidden)
        for one, output in zip(lists, together, strict=True):
            apart = at_positions(model, one, completions, 3, hidden)
            assert (output - apart).abs().max() < 2e-6 * apart.abs().max()
    assert forwards == 3


@pytest.mark.parametrize(("template", "saved"), [("after", 0.45), ("before", 0.3), ("system", 0.1)])
def test_how_many_tokens_are_saved_depends_on_the_template(template, saved):
    model = small_model()
    contexts, completions = rows(template, count=30)
    loss = HindsightLoss(Teacher("frozen", model), OBJECTIVE, batch_size=1)
    teacher = loss.teacher.run(lambda model: model)
    assert takes_trees(teacher)
    with counted_passes(teacher) as passes:
        loss.teacher_targets(contexts, completions)
    apart = sum(
        len(context) + len(completion)
        for row, completion in zip(contexts, completions, strict=True)
        for context in (row.prompt, row.hindsight, row.null)
    )
    assert passes.forwards == 30 and passes.tokens < (1 - saved) * apart


# Of 20 tokens the last one may be another if two are as likely but for rounding, which differs by CPU. Of all but one
# (the vocabulary has fewer than 200 tokens) it is the least likely token, which weighs nothing.
@pytest.mark.parametrize(
    ("kind", "k", "tolerance"), [("token", 1, 2e-5), ("full", 1, 2e-5), ("top_k", 200, 2e-5), ("top_k", 20, 5e-3)]
)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_targets_loss_and_gradient_are_those_of_separate_passes(kind, k, tolerance, packed, monkeypatch):
    contexts, completions = rows("before")
    objective = Objective(kind=kind, null_contrast=True, contrast_strength=3.0, focus=0.05, top_k=k)
    results = []
    for apart in (False, True):
        model = small_model()
        assert not packed or pack_rows(model)
        if apart:
            monkeypatch.setattr(shared_prefix, "takes_trees", lambda model: False)
        loss = HindsightLoss(Teacher("live", model), objective, batch_size=4)
        targets = loss.teacher_targets(contexts, completions)
        result = loss.loss(model, contexts, completions, targets, torch.ones(len(contexts)))
        result.loss.backward()
        assert loss.forwards == (6 if apart else 2)
        results.append((result, [weight.grad for weight in model.parameters()]))
    (together, gradients), (separate, slow) = results
    torch.testing.assert_close(together.signal_BT, separate.signal_BT, atol=2e-5, rtol=0)
    torch.testing.assert_close(together.loss, separate.loss, atol=1e-5, rtol=tolerance)
    for fast, reference in zip(gradients, slow, strict=True):
        assert (fast - reference).abs().max() < tolerance * reference.abs().max()


def test_a_mask_that_is_too_large_is_not_made(monkeypatch):
    model = small_model().eval()
    contexts, completions = rows("after")
    lists = [[row.prompt for row in contexts], [row.hindsight for row in contexts]]
    takes_trees(model)
    monkeypatch.setattr(shared_prefix, "LARGEST_MASK", 1000)
    with torch.no_grad(), counted_passes(model) as passes:
        _, forwards = at_positions_of_each(model, lists, completions, 3, hidden)
    assert forwards == passes.forwards == 6


def test_a_sliding_window_and_other_attention_take_no_trees():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    for window, takes in ((8, False), (None, True)):
        config = MistralConfig(vocab_size=50, num_hidden_layers=1, sliding_window=window, **sizes)
        assert takes_trees(MistralForCausalLM(config)) == takes
    eager = small_model()
    eager.set_attn_implementation("eager")
    assert not takes_trees(eager)


def test_an_attention_that_ignores_the_mask_takes_no_trees(monkeypatch):
    model = small_model()
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, attn_mask=None, is_causal=False, **more: attend(q, k, v, is_causal=True, **more),
    )
    assert not takes_trees(model)


def test_the_common_beginning():
    assert [common_length(rows) for rows in ([[1, 2, 3], [1, 2, 4, 5]], [[1], [1]], [[2], [1]])] == [2, 1, 0]


def generated_cache(model, contexts: list[Contexts]) -> GeneratedCache:
    """Let the model generate two tokens after each prompt and return what its cache then has of the prompts."""
    prompts, keeper = [row.prompt for row in contexts], CacheKeeper()
    config = GenerationConfig(max_new_tokens=2, eos_token_id=[0], pad_token_id=0)
    with keeper.keeping(model), torch.no_grad():
        generate_batch(model, prompts, config)
    return keeper.take(prompts)


@pytest.mark.parametrize("kind", ["token", "full", "top_k"])
@pytest.mark.parametrize("null_contrast", [False, True])
@pytest.mark.parametrize("template", ["after", "before", "system"])
def test_the_cache_of_the_prompts_gives_the_targets_of_complete_passes(kind, null_contrast, template):
    contexts, completions = rows(template)
    objective = Objective(kind=kind, null_contrast=null_contrast, focus=0.05 if null_contrast else 0.0)
    model = small_model()
    loss = HindsightLoss(Teacher("live", model), objective, batch_size=3)
    expected = loss.teacher_targets(contexts, completions)
    cache = generated_cache(model, contexts)
    loss.teacher_targets(contexts, completions, cache)  # the first time it is checked
    with counted_passes(model) as passes:
        targets = loss.teacher_targets(contexts, completions, cache)
    assert passes.forwards == loss.forwards == 3
    with counted_passes(model) as without:
        loss.teacher_targets(contexts, completions)
    assert template != "after" or passes.tokens < 0.8 * without.tokens
    weights, policy = torch.ones(len(contexts)), small_model(1)
    losses = [loss.loss(policy, contexts, completions, given, weights) for given in (targets, expected)]
    torch.testing.assert_close(losses[0].signal_BT, losses[1].signal_BT, atol=2e-5, rtol=0)
    torch.testing.assert_close(losses[0].loss, losses[1].loss, atol=1e-5, rtol=1e-4)


def test_a_cache_that_gives_something_else_is_not_used():
    contexts, completions = rows("after")
    model = small_model()
    loss = HindsightLoss(Teacher("live", model), Objective(), batch_size=4)
    expected = loss.teacher_targets(contexts, completions)
    of_other_weights = generated_cache(small_model(1), contexts)
    for target, other in zip(loss.teacher_targets(contexts, completions, of_other_weights), expected, strict=True):
        assert torch.equal(target.logps_T, other.logps_T)
    assert loss.forwards == 2


def test_only_a_live_teacher_uses_the_policys_cache():
    contexts, completions = rows("after")
    policy = small_model()
    loss = HindsightLoss(Teacher("frozen", policy), Objective(), batch_size=4)
    expected = loss.teacher_targets(contexts, completions)
    with torch.no_grad():
        policy.lm_head.weight.mul_(2)
    targets = loss.teacher_targets(contexts, completions, generated_cache(policy, contexts))
    assert all(torch.equal(one.logps_T, other.logps_T) for one, other in zip(targets, expected, strict=True))


@pytest.mark.parametrize("template", ["after", "system"])
def test_scores_after_several_contexts_are_those_of_separate_calls(template):
    model = small_model().eval()
    contexts, completions = rows(template)
    lists = [[row.hindsight for row in contexts], [row.prompt for row in contexts]]
    takes_trees(model)
    with torch.no_grad(), counted_passes(model) as passes:
        together = score_of_each(model, lists, completions, 3)
    assert passes.forwards == 3
    with torch.no_grad():
        for one, scores in zip(lists, together, strict=True):
            apart = score(model, one, completions)
            torch.testing.assert_close(scores.logps_BT, apart.logps_BT, atol=2e-5, rtol=0)
            assert torch.equal(scores.mask_BT, apart.mask_BT)
