"""The guard's judgement on numbers, and on a run that is made to fall apart."""

import pytest

from sdpo.train.guard import LIMITS, OK, SETTLED, STOP, WARN, CollapseDetector, repeated_share

HEALTHY = {"repetition": 0.02, "entropy": 0.2, "length": 18.0, "signal_size": 0.3, "satisfied": 0.5}


def test_repetition_by_hand():
    # Runs of three: 123, 231, 312, 123 - of four one was there before.
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repeated_share([1, 2]) == 0.0 and repeated_share([7] * 12) == pytest.approx(9 / 10)


def test_a_run_that_stays_as_it_was_is_left_alone():
    detector = CollapseDetector()
    assert [detector.observe({**HEALTHY, "lost": 0.03, "kl": 0.4}) for _ in range(50)] == [OK] * 50
    assert detector.is_healthy and not detector.reasons


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lost", [0.02, 0.05, 0.12, 0.13, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]),
        ("repetition", [0.02, 0.02, 0.02, 0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6]),
        ("entropy", [0.2, 0.2, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ("length", [18, 18, 18, 6, 2, 1, 1, 1, 1, 1]),
        ("length", [18, 18, 18, 60, 250, 400, 400, 400, 400, 400]),
    ],
)
def test_each_measure_warns_first_and_stops_after(name, values):
    detector = CollapseDetector()
    levels = [detector.observe({**HEALTHY, name: value}) for value in values]
    assert levels[0] == OK and levels[-1] == STOP
    assert WARN in levels and levels.index(WARN) < levels.index(STOP)
    assert any(LIMITS[name].description in reason for reason in detector.reasons)


@pytest.mark.parametrize(("name", "value"), [("kl", 9.0), ("signal_size", 9.0), ("satisfied", 0.0)])
def test_what_a_healthy_run_may_do_too_warns_and_never_stops(name, value):
    detector = CollapseDetector()
    for _ in range(5):
        detector.observe({**HEALTHY, "kl": 0.1})
    levels = [detector.observe({**HEALTHY, "kl": 0.1, name: value}) for _ in range(50)]
    assert levels[-1] == WARN and STOP not in levels


def test_what_was_seen_stands_until_it_is_looked_at_again():
    detector = CollapseDetector()
    detector.observe({**HEALTHY, "lost": 0.02})
    levels = [detector.observe({**HEALTHY, "lost": 0.5}), *(detector.observe(HEALTHY) for _ in range(3))]
    assert levels[-1] == STOP
    assert [detector.observe({**HEALTHY, "lost": 0.02}) for _ in range(2)][-1] == OK


def test_one_bad_step_is_not_enough():
    detector = CollapseDetector()
    for _ in range(5):
        detector.observe(HEALTHY)
    assert detector.observe({**HEALTHY, "repetition": 1.0}) == OK
    assert [detector.observe(HEALTHY) for _ in range(10)][-1] == OK


def test_learning_a_taste_is_no_collapse():
    # Half the answers lose their emoji: one of eighteen tokens; answers grow half as long, all users end up happy.
    detector = CollapseDetector()
    levels = [
        detector.observe(
            {"repetition": 0.02, "entropy": 0.2 - 0.1 * part, "length": 18 + 10 * part, "signal_size": 0.4 - 0.3 * part,
             "satisfied": 0.4 + 0.6 * part, "lost": 0.06 * part, "kl": 0.5 * part}
        )
        for part in [step / 30 for step in range(31)]
    ]  # fmt: skip
    assert set(levels) == {OK}


def test_drift_counts_once_the_users_have_been_content_for_long():
    def levels(satisfied: float, anchored: bool = False) -> list[int]:
        detector = CollapseDetector(anchored)
        return [detector.observe({**HEALTHY, "satisfied": satisfied, "kl": 0.01 * step}) for step in range(60)]

    # Who still complains is still learned from, and that moves the policy.
    assert set(levels(0.7)) == {OK}
    found = levels(1.0)
    assert set(found[: SETTLED + 3]) == {OK} and found[-1] == STOP
    # A teacher that stands still is something to move towards.
    assert set(levels(1.0, anchored=True)) == {OK}
    settled = CollapseDetector()
    still = [settled.observe({**HEALTHY, "satisfied": 1.0, "kl": 0.01 * min(step, 15)}) for step in range(60)]
    assert set(still) == {OK}


def test_what_is_calm_is_far_from_a_warning():
    detector = CollapseDetector()
    detector.observe({"lost": 0.0})
    for _ in range(20):
        detector.observe({"lost": LIMITS["lost"].warn * 0.9})
    assert detector.level == OK and not detector.is_healthy
