"""The rules of a release: each alone and together, what harm and missing figures may never do, and their errors."""

import subprocess
import sys
from dataclasses import asdict, replace
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.evaluate import release
from sdpo.evaluate.drop_tests import holm, paired_p_value, risen_share_p_value
from sdpo.evaluate.evidence import BASELINE, BenchmarkChange, Condition, JudgeTruth, finite
from sdpo.evaluate.release_rules import KEEP, MEANING, PROMOTE, PROMOTE_WITH_WARNING, Evidence, decide
from sdpo.evaluate.rule import NOT_MEASURED
from sdpo.evaluate.win_rates import WinRate
from sdpo.runtime.statistics import wilson
from sdpo.settings.release import ReleaseSettings
from tests.commands import ROOT

LIMITS = ReleaseSettings()
ROW = WinRate(
    3, "rule", prompts=200, wins=120, losses=40, ties=40, win_rate=0.75, controlled_rate=0.7, length=100.0,
    baseline_length=100.0, unfinished=0.0, baseline_unfinished=0.0, contradictory=0.1,
)  # fmt: skip
MODEL = replace(ROW, judge="model")
START = Condition(
    fluency=-1.0, surprise=0.0, topic=2.0, leak=0.0, distance=0.0, by_kind={"facts": 0.0, "code": 0.0}, diversity=0.9,
    words=60.0, refusals=0.02, other_language=0.0,
)  # fmt: skip
HEALTHY = replace(START, fluency=-1.02, surprise=0.02, topic=2.1, distance=0.04, by_kind={"facts": 0.03, "code": 0.05})
TRUTHS = {"model": JudgeTruth("model", 60, 0.9, {}, 0.8, 0.95)}


def change(lost=10, gained=10, items=300, task="ifeval", checkpoint=3, better_is_higher=True) -> BenchmarkChange:
    """A benchmark of right and wrong items, of which these many changed."""
    outcomes = np.zeros(items)
    outcomes[:lost], outcomes[lost : lost + gained] = -1, 1
    error = float(outcomes.std(ddof=1) / items**0.5) if items > 1 else 0.0
    difference = round(float(outcomes.mean()), 6)
    sign = 1 if better_is_higher else -1
    return BenchmarkChange(
        checkpoint, task, "acc", items, 0.6, round(0.6 + sign * difference, 6), sign * difference, round(error, 6),
        better_is_higher,
    )  # fmt: skip


def evidence(rows=(ROW,), own=HEALTHY, start=START, benchmarks=None, truths=TRUTHS, overlap=0) -> Evidence:
    conditions = {f"checkpoint-{row.checkpoint}": own for row in rows if own} | ({BASELINE: start} if start else {})
    return Evidence(rows, [change()] if benchmarks is None else benchmarks, conditions, truths, overlap)


def verdict(given_evidence=None, limits=LIMITS, **parts):
    return decide(given_evidence or evidence(**parts), limits).releases[0]


def failed(release) -> set[str]:
    return {rule.name for rule in release.rules if rule.failed}


def test_a_healthy_checkpoint_with_a_gain_is_promoted_and_every_rule_is_named():
    found = verdict()
    assert found.verdict == PROMOTE and found.reasons == [] and not failed(found)
    assert {rule.name for rule in found.rules} >= {
        "gain", "benchmark ifeval", "distance", "distance by kind", "fluency", "surprise", "topic", "diversity",
        "length", "leaks", "refusals", "language", "unfinished answers", "training overlap",
    }  # fmt: skip
    assert all(rule.sentence and rule.outcome == "passed" for rule in found.rules)
    assert decide(evidence(), LIMITS).sentence == "promote: checkpoint-3"


def test_the_names_that_do_not_explain_themselves_are_explained_on_the_screen_and_the_page():
    decision = decide(evidence(), LIMITS)
    names = [rule.name for rule in decision.releases[0].rules]
    for shown in (release.text(decision), str(release.page(decision)).replace("&#39;", "'")):
        for meaning in MEANING:
            assert meaning in shown and meaning.partition(":")[0] in names


# The gain


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (20, 20), (12, 8), (20, 60)])
def test_without_a_certain_win_the_model_is_kept(wins, losses):
    found = verdict(rows=[replace(ROW, wins=wins, losses=losses)])
    assert found.verdict == KEEP and found.reasons[0].startswith("no gain")
    assert failed(found) == {"gain"}
    assert (wilson(wins, losses) or (0, 0))[0] <= 0.5


def fits(share: int, of: int = 200) -> tuple[bool, ...]:
    return tuple(index < share for index in range(of))


def test_where_a_rule_reads_the_style_the_paired_gain_in_adherence_decides():
    better, even = replace(HEALTHY, fits=fits(120)), replace(HEALTHY, fits=fits(60)[::-1])
    start = replace(START, fits=fits(60))
    found = verdict(own=better, start=start, rows=[replace(MODEL, wins=80, losses=80)])
    assert found.verdict == PROMOTE and found.gain.figure == pytest.approx(0.3) and found.gain.low > 0
    # The same share of other answers is no gain, whatever a judge says.
    found = verdict(own=even, start=start, rows=[MODEL])
    assert found.verdict == KEEP and failed(found) == {"gain"}
    worse = verdict(own=replace(HEALTHY, fits=fits(20)), start=start, rows=[MODEL])
    assert worse.verdict == KEEP and failed(worse) == {"gain"}
    assert worse.reasons[0].startswith(
        "worse: 10.0% of its answers fit the style, of the baseline's 30.0%, -20.0 points"
    )
    assert verdict(own=even, start=start, rows=[MODEL]).reasons[0].startswith("no gain that is certain: ")
    for share, words in ((60, "30.0%, on the same prompts"), (0, "0.0%: the model may be unable to meet it")):
        unchanged = replace(HEALTHY, fits=fits(share)), replace(START, fits=fits(share))
        (reason,) = verdict(own=unchanged[0], start=unchanged[1], rows=[MODEL]).reasons
        assert reason.startswith("no gain: ") and words in reason
    # A judge that prefers the baseline is heard, but does not decide.
    found = verdict(own=better, start=start, rows=[replace(MODEL, wins=30, losses=130)])
    assert found.verdict == PROMOTE_WITH_WARNING and "prefers the baseline" in found.reasons[0]


def test_the_prompts_of_one_conversation_are_no_cases_of_their_own():
    """Twelve answers of twelve that now fit are a gain, if they are not six turns each of two conversations."""
    own, start = replace(HEALTHY, fits=fits(12, 12)), replace(START, fits=fits(0, 12))
    known = evidence(own=own, start=start, rows=[replace(ROW, prompts=12, wins=12, losses=0, ties=0)])
    assert verdict(known).gain.outcome == "passed"
    two = verdict(replace(known, conversations=["a", "b"] * 6))
    assert two.verdict == KEEP and failed(two) == {"gain"} and two.gain.low <= 0 < two.gain.figure
    # The same where judges decide.
    row = replace(MODEL, prompts=12, wins=12, losses=0, ties=0)
    assert verdict(rows=[row]).gain.outcome == "passed"
    assert verdict(rows=[replace(row, design_effect=6.0)]).gain.outcome == "failed"


def test_a_gain_is_certain_by_the_exact_test_too():
    """Of four answers that changed at random, all are better in one of sixteen cases; Wilson's interval excludes it."""
    start = replace(START, fits=fits(0))
    for better, expected in ((4, KEEP), (5, KEEP), (6, PROMOTE)):
        row = replace(ROW, wins=better, losses=0)
        assert wilson(better, 0)[0] > 0.5
        assert verdict(rows=[row]).verdict == expected
        assert verdict(rows=[row], own=replace(HEALTHY, fits=fits(better)), start=start).verdict == expected
    assert "which chance may explain" in verdict(rows=[replace(ROW, wins=5, losses=0)]).reasons[0]


def test_a_gain_by_chance_is_no_more_frequent_than_is_meant():
    for changed in range(1, 60):
        certain = [
            better
            for better in range(changed + 1)
            if verdict(rows=[replace(ROW, wins=better, losses=changed - better)]).gain.outcome == "passed"
        ]
        assert sum(comb(changed, better) for better in certain) / 2**changed <= 0.025, changed


def test_the_most_trusted_judge_decides():
    poor = {"other": JudgeTruth("other", 60, 0.7, {}, 0.6, 0.8)} | TRUTHS
    loser = replace(ROW, judge="other", wins=60, losses=70)
    found = verdict(rows=[loser, MODEL], truths=poor)
    assert found.verdict == PROMOTE and found.gain.figure == 0.75
    assert verdict(rows=[replace(loser, judge="rule"), MODEL], truths=poor).verdict == KEEP
    # Without any truth the first named decides, and the missing truth of each is said.
    found = verdict(rows=[MODEL, loser], truths={})
    assert found.verdict == PROMOTE_WITH_WARNING and len(found.reasons) == 2


def test_several_checkpoints_need_a_clearer_win():
    """The best of five without any gain wins by luck more often than one does."""
    lucky = replace(ROW, wins=61, losses=39)
    assert wilson(61, 39)[0] > 0.5 and verdict(rows=[lucky]).verdict == PROMOTE
    rows = [lucky, *(replace(ROW, checkpoint=step, wins=50, losses=50) for step in (6, 9, 12, 15))]
    assert decide(evidence(rows), LIMITS).verdict == KEEP


def test_length_keeps_longer_answers_that_win_by_it_alone_and_warns_of_the_others():
    explained = replace(MODEL, length_explains=True, length=160.0, controlled_rate=0.48)
    found = verdict(rows=[explained])
    assert found.verdict == KEEP and failed(found) == {"length of the winner"}
    for warned in (replace(explained, controlled_rate=0.55), replace(explained, length=60.0)):
        assert verdict(rows=[warned]).verdict == PROMOTE_WITH_WARNING
    # A rule is not misled by length, nor is an evaluation where length explains nothing.
    assert verdict(rows=[replace(explained, judge="rule")]).verdict == PROMOTE
    assert verdict(rows=[replace(MODEL, length=160.0)]).verdict == PROMOTE


@pytest.mark.parametrize(
    ("agreement", "low", "expected"),
    [(0.95, 0.86, PROMOTE), (0.8, 0.68, PROMOTE), (0.75, 0.62, PROMOTE_WITH_WARNING), (0.55, 0.42, KEEP)],
)
def test_a_judge_that_is_often_wrong_warns_and_one_like_a_coin_keeps(agreement, low, expected):
    truth = JudgeTruth("model", 60, agreement, {}, low, 0.99)
    assert verdict(rows=[MODEL], truths={"model": truth}).verdict == expected


@pytest.mark.parametrize(
    ("rows", "overlap", "rule"),
    [
        ([replace(MODEL, contradictory=0.3)], 0, "position (model)"),
        ([replace(ROW, unfinished=0.2)], 0, "unfinished answers"),
        ([replace(ROW, baseline_unfinished=0.2)], 0, "unfinished answers"),
        ([ROW], 7, "training overlap"),
        ([ROW], None, "training overlap"),
    ],
)
def test_what_makes_a_gain_doubtful_is_warned_of(rows, overlap, rule):
    found = verdict(rows=rows, overlap=overlap)
    assert found.verdict == PROMOTE_WITH_WARNING and failed(found) == {rule} and len(found.reasons) == 1


# Harm

HARMS = {
    "distance": {"distance": 0.2},
    "distance by kind": {"by_kind": {"facts": 0.02, "code": 0.4}},
    "fluency": {"fluency": -1.2},
    "surprise": {"surprise": 0.3},
    "topic": {"topic": 1.5},
    "leaks": {"leak": 0.05},
    "diversity": {"diversity": 0.4},
    "length": {"words": 9.0},
    "refusals": {"refusals": 0.15},
    "language": {"other_language": 0.1},
}


@pytest.mark.parametrize("name", HARMS)
def test_each_harm_alone_keeps_the_model_however_large_the_gain(name):
    found = verdict(own=replace(HEALTHY, **HARMS[name]))
    assert found.verdict == KEEP and failed(found) == {name} and len(found.reasons) == 1
    assert decide(evidence(own=replace(HEALTHY, **HARMS[name])), LIMITS).sentence.endswith(f"checkpoint-3: {name})")


def test_the_language_of_few_readable_answers_proves_nothing():
    start, own = replace(START, language_read=12), replace(HEALTHY, other_language=2 / 12, language_read=12)
    assert verdict(start=start, own=own).verdict == PROMOTE  # 0 and 2 of 12, by chance in one of four such pairs
    many = replace(own, language_read=200), replace(START, language_read=200)
    assert failed(verdict(start=many[1], own=many[0])) == {"language"}


def test_one_conversation_that_is_refused_throughout_is_one_case_of_a_refusal():
    refusing = replace(HEALTHY, refusals=16 / 128)
    known = evidence(own=refusing, start=replace(START, refusals=0.0), rows=[replace(ROW, prompts=128)])
    assert failed(verdict(known)) == {"refusals"}
    eight = [str(prompt // 16) for prompt in range(128)]  # of which one has all 16 refusals
    assert verdict(replace(known, conversations=eight)).verdict == PROMOTE


def test_a_benchmark_that_is_no_number_is_said_not_to_be_measured():
    found = verdict(benchmarks=[change(10, 40), replace(change(10, 40), task="wiki", difference=float("nan"))])
    assert {"benchmark wiki"} == {rule.name for rule in found.rules if rule.outcome == NOT_MEASURED} - {"gain"}


def test_a_benchmark_that_a_checkpoint_took_beyond_all_numbers_is_harm():
    infinite = float("inf")
    broken = BenchmarkChange(3, "wiki", "word_perplexity", 62, 12.0, infinite, infinite, float("nan"), False)
    found = verdict(benchmarks=[change(10, 40), broken])
    assert found.verdict == KEEP and failed(found) == {"benchmark wiki"} and "12.000 to inf" in found.reasons[0]
    # A file of JSON has no such number.
    assert finite({"rows": [asdict(broken), (-infinite, "inf", 3)]}) == {
        "rows": [asdict(broken) | {"value": None, "difference": None, "standard_error": None}, [None, "inf", 3]]
    }
    unknown = replace(broken, baseline=infinite, difference=float("nan"))
    assert verdict(benchmarks=[change(10, 40), unknown]).verdict == PROMOTE_WITH_WARNING


def test_all_harms_together_are_all_named():
    worst = replace(HEALTHY, **{key: value for harm in HARMS.values() for key, value in harm.items()})
    found = verdict(own=worst, benchmarks=[change(60, 5)], rows=[replace(ROW, wins=1)])
    assert failed(found) == {*HARMS, "benchmark ifeval", "gain"}


def test_answers_that_hardly_depend_on_their_prompts_cannot_lose_that():
    aimless = replace(START, topic=0.009)
    assert verdict(start=aimless, own=replace(HEALTHY, topic=-0.006)).verdict == PROMOTE
    assert failed(verdict(start=aimless, own=replace(HEALTHY, topic=-0.1))) == {"topic"}


def test_a_figure_that_is_no_number_is_harm():
    for name in ("fluency", "surprise", "distance"):
        assert verdict(own=replace(HEALTHY, **{name: float("nan")})).verdict == KEEP


def test_limits_are_those_of_the_settings():
    moved = replace(HEALTHY, distance=0.2)
    assert verdict(own=moved).verdict == KEEP
    assert verdict(own=moved, limits=replace(LIMITS, max_distance=0.3)).verdict == PROMOTE
    assert verdict(limits=replace(LIMITS, max_distance=0.03)).verdict == KEEP
    assert verdict(benchmarks=[change(45, 5)], limits=replace(LIMITS, max_drop=0.2)).verdict == PROMOTE


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        (change(40, 10), KEEP),  # ten points on 300 items
        (change(40, 10, better_is_higher=False), KEEP),
        (change(10, 40), PROMOTE),
        (change(3, 0, items=20), PROMOTE),  # 15 points, but 3 flips of a coin
        (change(1, 0, items=1), PROMOTE),
        (change(40, 0, items=4000), PROMOTE),  # certain, but only one point
        (BenchmarkChange(3, "rouge", "f", 200, 0.41, 0.36, -0.05, 0.009), KEEP),  # not right or wrong
        (BenchmarkChange(3, "rouge", "f", 200, 0.41, 0.36, -0.05, 0.04), PROMOTE),
    ],
)
def test_a_benchmark_counts_if_it_fell_by_more_than_the_limit_and_not_by_chance(benchmark, expected):
    assert verdict(benchmarks=[benchmark]).verdict == expected


def test_a_fall_or_a_rise_of_exactly_the_limit_is_within_it():
    fallen = BenchmarkChange(3, "ifeval", "acc", 300, 0.90, 0.88, 0.88 - 0.90, change(6, 0).standard_error)
    assert fallen.difference < -LIMITS.max_drop  # by the last digit of a float
    found = verdict(benchmarks=[fallen])
    assert found.verdict == PROMOTE and any("not worse by more than 0.02" in rule.sentence for rule in found.rules)
    risen = replace(HEALTHY, refusals=0.1 + LIMITS.max_refusals)
    assert risen.refusals - 0.1 > LIMITS.max_refusals
    rows_of_many, start = [replace(ROW, prompts=4000)], replace(START, refusals=0.1)
    assert verdict(rows=rows_of_many, own=risen, start=start).verdict == PROMOTE


def test_the_limit_of_a_benchmark_has_the_sign_of_its_losses():
    limits = {
        rule.name: (rule.figure, rule.threshold)
        for better in (True, False)
        for rule in verdict(benchmarks=[change(60, 0, task=str(better), better_is_higher=better)]).rules
    }
    assert limits["benchmark True"] == (-0.2, -0.02) and limits["benchmark False"] == (0.2, 0.02)


def test_benchmarks_of_other_checkpoints_say_nothing():
    assert verdict(benchmarks=[change(60, 5, checkpoint=6), change()]).verdict == PROMOTE


# What is missing


def test_missing_evidence_is_said_and_never_passes_silently():
    nothing = verdict(own=None, start=None, benchmarks=[])
    assert nothing.verdict == PROMOTE_WITH_WARNING and "nothing of harm was measured" in nothing.reasons[0]
    found = verdict(benchmarks=[])
    assert found.verdict == PROMOTE_WITH_WARNING and found.reasons == ["not measured: benchmarks"]
    found = verdict(own=replace(HEALTHY, diversity=None, fluency=None))
    assert found.reasons == ["not measured: fluency, diversity"]
    broken = verdict(benchmarks=[replace(change(), difference=float("nan"))])
    assert broken.verdict == PROMOTE_WITH_WARNING and "ifeval" in broken.reasons[0]


def test_of_several_checkpoints_the_best_without_a_warning_is_chosen():
    rows = [ROW, replace(ROW, checkpoint=6, wins=140, losses=20), replace(ROW, checkpoint=9, wins=150, losses=10)]
    given_evidence = replace(evidence(rows), benchmarks=[change(checkpoint=step) for step in (3, 6, 9)])
    assert decide(given_evidence, LIMITS).chosen.checkpoint == 9
    harmed = given_evidence.conditions | {"checkpoint-9": replace(HEALTHY, distance=0.5)}
    assert decide(replace(given_evidence, conditions=harmed), LIMITS).chosen.checkpoint == 6
    warned = replace(given_evidence, conditions=harmed, benchmarks=[change(checkpoint=3)])
    assert decide(warned, LIMITS).chosen.checkpoint == 3
    assert [release.verdict for release in decide(warned, LIMITS).releases] == [PROMOTE, PROMOTE_WITH_WARNING, KEEP]


# For any evidence

shares = st.floats(0, 1)
conditions = st.builds(
    Condition, fluency=st.floats(-4, 0), surprise=st.floats(-0.1, 1), topic=st.floats(0, 3), leak=shares,
    distance=st.floats(0, 1), by_kind=st.just({}), diversity=shares, words=st.floats(0, 200), refusals=shares,
    other_language=shares, fits=st.none() | st.lists(st.booleans(), min_size=40, max_size=40).map(tuple),
)  # fmt: skip
rows = st.builds(
    lambda wins, losses, **given: replace(MODEL, wins=wins, losses=losses, **given),
    st.integers(0, 100), st.integers(0, 100), judge=st.sampled_from(["model", "other", "rule"]),
    length_explains=st.booleans(), length=st.floats(1, 200), controlled_rate=shares, contradictory=shares,
)  # fmt: skip
benchmarks = st.lists(
    st.builds(change, st.integers(0, 60), st.integers(0, 60), task=st.sampled_from("abcdef")), max_size=6
)
truths = st.builds(lambda value, low: {"model": JudgeTruth("model", 60, value, {}, low, 1.0)}, shares, shares)
evidences = st.builds(
    evidence, st.lists(rows, min_size=1, max_size=3, unique_by=lambda row: row.judge), conditions, conditions,
    benchmarks, truths, st.integers(0, 3),
)  # fmt: skip
WORSE = {"fluency": -1.0, "surprise": 1.0, "topic": -0.5, "leak": 0.3, "distance": 0.3, "diversity": -0.3}
WORSE |= {"refusals": 0.3, "other_language": 0.3}


def with_own(given_evidence, own):
    return replace(given_evidence, conditions={**given_evidence.conditions, "checkpoint-3": own})


@settings(max_examples=200, deadline=None)
@given(evidences, st.sampled_from(sorted(WORSE)), shares)
def test_more_harm_never_releases_what_was_kept(given_evidence, name, by):
    before = decide(given_evidence, LIMITS)
    own = given_evidence.conditions["checkpoint-3"]
    moved = getattr(own, name) + by * WORSE[name]
    moved = min(moved, 1.0) if name in ("leak", "refusals", "other_language") else moved
    worse = with_own(given_evidence, replace(own, **{name: moved}))
    lower = [
        change(round(60 * by) + 60, 0, task=one.task) if index == 0 else one
        for index, one in enumerate(given_evidence.benchmarks)
    ]
    for harmed in (
        worse,
        replace(given_evidence, benchmarks=lower),
        replace(given_evidence, benchmarks=[*given_evidence.benchmarks, change(90, 0, task="new")]),
    ):
        after = decide(harmed, LIMITS)
        assert before.verdict != KEEP or after.verdict == KEEP
        assert before.verdict == PROMOTE or after.verdict != PROMOTE


@settings(max_examples=200, deadline=None)
@given(evidences, st.sets(st.sampled_from([*WORSE, "words", "fits", "benchmarks", "truths", "start"]), min_size=1))
def test_missing_figures_never_make_a_plain_promotion_of_what_was_kept(given_evidence, missing):
    less = with_own(
        given_evidence,
        replace(given_evidence.conditions["checkpoint-3"], **{name: None for name in missing if name in FIGURES}),
    )
    if "benchmarks" in missing:
        less = replace(less, benchmarks=[])
    if "truths" in missing:
        less = replace(less, truths={})
    if "start" in missing:
        less = replace(less, conditions={"checkpoint-3": less.conditions["checkpoint-3"]})
    kept = decide(given_evidence, LIMITS).verdict == KEEP
    if kept and given_evidence.conditions[BASELINE].fits is None:
        assert decide(less, LIMITS).verdict != PROMOTE


FIGURES = {*WORSE, "words", "fits"}


# The tests of chance


def test_the_exact_test_is_a_coins():
    assert paired_p_value(300, 5 / 300, change(5, 0).standard_error) == pytest.approx(1 / 32)
    assert paired_p_value(20, 3 / 20, change(3, 0, items=20).standard_error) == pytest.approx(1 / 8)
    # Computed with n in the place of n - 1 it is the same.
    error = change(8, 2).standard_error * (299 / 300) ** 0.5
    assert paired_p_value(300, 0.02, error) == paired_p_value(300, 0.02, change(8, 2).standard_error)
    assert paired_p_value(0, 0.1, 0.1) == paired_p_value(300, 0.0, 0.1) == paired_p_value(300, -0.1, 0.01) == 1.0
    assert paired_p_value(4000, 0.1, change(1000, 600, items=4000).standard_error) < 1e-20


def test_a_risen_share_is_tested_by_fishers_test():
    assert risen_share_p_value(0.0, 1.0, 3, 3) == pytest.approx(1 / 20)
    assert risen_share_p_value(0.0, 0.25, 4, 4) == pytest.approx(1 / 2)
    # Of 4 and 6 answers, 5 in another language: all 5 among the second 6 in comb(6, 5) = 6 of comb(10, 5) = 252 cases.
    assert risen_share_p_value(0.0, 5 / 6, 4, 6) == pytest.approx(6 / 252)
    assert risen_share_p_value(0.2, 0.1, 100, 100) == risen_share_p_value(0.0, 0.0, 0, 0) == 1.0


def test_holm_rejects_in_the_order_of_the_p_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.04]) == [True] and holm([0.04, 0.04]) == [False, False] and holm([]) == []


def simulated(random, tasks: int, drop: float, flips: float = 0.1) -> Evidence:
    """A pair of models with this drop on the first task; beside it as many items are gained as lost."""
    own, start = (
        replace(
            HEALTHY, fluency=-1.0 + random.normal(0, 0.02), surprise=random.normal(0, 0.02),
            refusals=random.binomial(256, 0.05) / 256, leak=random.binomial(256, 0.01) / 256,
            other_language=random.binomial(256, 0.02) / 256,
        )
        for _ in range(2)
    )  # fmt: skip
    changes = []
    for task in range(tasks):
        lost = drop if task == 0 else 0.0
        kinds = random.multinomial(300, [flips / 2 + lost, flips / 2, 1 - flips - lost])
        changes.append(change(int(kinds[0]), int(kinds[1]), task=f"task-{task}"))
    return evidence([replace(ROW, prompts=256)], own, start, changes)


@pytest.mark.parametrize("tasks", [1, 3, 8])
def test_pairs_without_a_difference_are_kept_for_harm_in_at_most_one_of_twenty(tasks):
    random = np.random.default_rng(tasks)
    kept = sum(decide(simulated(random, tasks, 0.0, 0.2), LIMITS).verdict == KEEP for _ in range(200))
    assert kept <= 10
    # Without the correction for several tests more would be.
    if tasks == 8:
        single = [
            min(paired_p_value(300, -one.difference, one.standard_error) for one in pair.benchmarks) <= 0.05
            for pair in (simulated(random, tasks, 0.0, 0.2) for _ in range(200))
        ]
        assert sum(single) > 20


@pytest.mark.parametrize(("tasks", "flips"), [(1, 0.1), (1, 0.2), (3, 0.1), (8, 0.1)])
def test_a_drop_of_ten_points_on_300_items_is_found_in_nine_of_ten(tasks, flips):
    random = np.random.default_rng(tasks)
    found = [verdict(simulated(random, tasks, 0.1, flips)) for _ in range(200)]
    assert sum("benchmark task-0" in failed(release) for release in found) >= 180


def test_the_rules_import_nothing_heavy():
    probe = "import sys, sdpo.evaluate.release_rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT).returncode == 0
