"""The collapse detector on made-up measures: what it ignores, warns about and stops for."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.collapse import LIMITS, OK, SETTLED, STOP, WARN, CollapseDetector, repeated_share
from sdpo.train.guard import CollapseGuard
from sdpo.train.record import LatestAnswers

HEALTHY = {"repetition": 0.02, "entropy": 0.2, "length": 18.0, "signal_size": 0.3, "satisfied": 0.5}


def test_repeated_share_on_short_sequences():
    # Trigrams: 123, 231, 312, 123; one of the four repeats an earlier one.
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repeated_share([1, 2]) == 0.0 and repeated_share([7] * 12) == pytest.approx(9 / 10)


def test_constant_measures_never_warn():
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
def test_each_measure_warns_before_it_stops(name, values):
    detector = CollapseDetector()
    levels = [detector.observe({**HEALTHY, name: value}) for value in values]
    assert levels[0] == OK and levels[-1] == STOP
    assert WARN in levels and levels.index(WARN) < levels.index(STOP)
    assert any(LIMITS[name].description in reason for reason in detector.reasons)


@pytest.mark.parametrize("name", ["surprise", "distance"])
def test_limits_of_the_start_models_measures(name):
    """Both are 0 for the start model itself, so neither needs steps to find its baseline."""
    limit = LIMITS[name]

    def last_level(value: float) -> int:
        detector = CollapseDetector()
        return [detector.observe({**HEALTHY, name: value}) for _ in range(30)][-1]

    assert [last_level(value) for value in (-5.0, 0.0, limit.warn - 0.01)] == [OK] * 3
    assert [last_level(value) for value in (limit.warn + 0.01, limit.stop - 0.01)] == [WARN] * 2
    assert [last_level(value) for value in (limit.stop + 0.01, 5.0)] == [STOP] * 2


@pytest.mark.parametrize("name", ["surprise", "distance"])
def test_a_policy_that_is_far_from_its_start_at_once_is_found_at_once(name):
    # A measure with a baseline of its own would take the first steps for normal.
    detector = CollapseDetector()
    levels = [detector.observe({**HEALTHY, name: 2.0}) for _ in range(3)]
    assert levels == [OK, STOP, STOP] and detector.reasons[0].endswith(LIMITS[name].description)


def test_surprise_is_smoothed_over_steps_and_distance_is_not():
    # Surprise comes from a few answers of the step, the distance from the same answers each time.
    levels = {}
    for name in ("surprise", "distance"):
        detector = CollapseDetector()
        between = (LIMITS[name].warn + LIMITS[name].stop) / 2
        levels[name] = [detector.observe({**HEALTHY, name: between * (step % 2)}) for step in range(20)]
        assert detector.smooth[name] == pytest.approx(between * (2 / 3 if name == "surprise" else 1))
    assert set(levels["surprise"]) == set(levels["distance"]) == {OK}
    detector = CollapseDetector()
    levels = [detector.observe({**HEALTHY, "surprise": 0.5 * (LIMITS["surprise"].warn)}) for _ in range(20)]
    assert set(levels) == {OK} and detector.is_healthy


def test_a_resumed_detector_goes_on_where_the_first_one_stood():
    rows = [
        {**HEALTHY, "surprise": 0.03 * step, **({"distance": 0.01 * step} if step % 5 == 0 else {})}
        for step in range(9)
    ]
    first, again = CollapseDetector(), CollapseDetector()
    for row in rows:
        first.observe(row)
    for row in rows:
        again.observe({name: round(value, 5) for name, value in row.items()})
    assert again.score == pytest.approx(first.score, abs=1e-3) and again.level == first.level


@pytest.mark.parametrize(("name", "value"), [("kl", 9.0), ("signal_size", 9.0), ("satisfied", 0.0)])
def test_measures_that_healthy_runs_may_reach_only_warn(name, value):
    detector = CollapseDetector()
    for _ in range(5):
        detector.observe({**HEALTHY, "kl": 0.1})
    levels = [detector.observe({**HEALTHY, "kl": 0.1, name: value}) for _ in range(50)]
    assert levels[-1] == WARN and STOP not in levels


def test_a_measure_counts_until_it_is_measured_again():
    detector = CollapseDetector()
    detector.observe({**HEALTHY, "lost": 0.02})
    levels = [detector.observe({**HEALTHY, "lost": 0.5}), *(detector.observe(HEALTHY) for _ in range(3))]
    assert levels[-1] == STOP
    assert [detector.observe({**HEALTHY, "lost": 0.02}) for _ in range(2)][-1] == OK


def test_a_single_bad_step_does_not_warn():
    detector = CollapseDetector()
    for _ in range(5):
        detector.observe(HEALTHY)
    assert detector.observe({**HEALTHY, "repetition": 1.0}) == OK
    assert [detector.observe(HEALTHY) for _ in range(10)][-1] == OK


def test_learning_a_style_is_not_a_collapse():
    # Half of the answers lose their emoji, one token in eighteen; answers become half as long again, and all users
    # end up satisfied.
    detector = CollapseDetector()
    levels = [
        detector.observe(
            {"repetition": 0.02, "entropy": 0.2 - 0.1 * part, "length": 18 + 10 * part, "signal_size": 0.4 - 0.3 * part,
             "satisfied": 0.4 + 0.6 * part, "lost": 0.06 * part, "kl": 0.5 * part}
        )
        for part in [step / 30 for step in range(31)]
    ]  # fmt: skip
    assert set(levels) == {OK}


def test_drift_counts_once_users_have_been_satisfied_for_long():
    def levels(satisfied: float, anchored: bool = False) -> list[int]:
        detector = CollapseDetector(anchored)
        return [detector.observe({**HEALTHY, "satisfied": satisfied, "kl": 0.01 * step}) for step in range(60)]

    # While users still complain, the policy learns from them and therefore moves.
    assert set(levels(0.7)) == {OK}
    drifting = levels(1.0)
    assert set(drifting[: SETTLED + 3]) == {OK} and drifting[-1] == STOP
    # With a fixed teacher the policy still moves towards it.
    assert set(levels(1.0, anchored=True)) == {OK}
    detector = CollapseDetector()
    settled = [detector.observe({**HEALTHY, "satisfied": 1.0, "kl": 0.01 * min(step, 15)}) for step in range(60)]
    assert set(settled) == {OK}


def test_close_to_a_warning_is_no_longer_healthy():
    detector = CollapseDetector()
    detector.observe({"lost": 0.0})
    for _ in range(20):
        detector.observe({"lost": LIMITS["lost"].warn * 0.9})
    assert detector.level == OK and not detector.is_healthy


@pytest.mark.parametrize(("bare", "calls", "measured"), [(0.05, [False], 0.05), (0.5, [False, True], 0.1)])
def test_answers_are_scored_with_the_wish_only_if_they_are_unlikely_without(bare, calls, measured):
    class Start:
        wish = "shorter, please"

        def __init__(self):
            self.calls = []

        def surprise(self, messages, completions, shown=False):
            self.calls.append(shown)
            return [0.1 if shown else bare] * len(completions)

    start, latest = Start(), LatestAnswers([[1]] * 9, [[2]] * 9, [[{"role": "user", "content": "x"}]] * 9)
    guard = CollapseGuard(None, None, dict, lambda: latest, stops=True, anchored=True, start=start)
    assert guard._by_start_model(start, probes=False) == {"surprise": pytest.approx(measured)}
    assert start.calls == calls
    latest.messages = []  # logged answers are not the policy's own
    assert guard._by_start_model(start, probes=False) == {} and start.calls == calls


# The best checkpoint


def best_of(run_of_scores, save_every=1):
    """Return the best checkpoint of a run with these shares of lost tokens, None if there is none, and its levels."""
    saved = SimpleNamespace(is_interim=False)
    guard = CollapseGuard(None, saved, dict, lambda: None, stops=True, anchored=True)
    state, levels = SimpleNamespace(best_model_checkpoint=None, global_step=0), []
    for step, lost in enumerate(run_of_scores, start=1):
        state.global_step = step
        levels.append(guard.detector.observe({**HEALTHY, "lost": lost}))
        if step % save_every == 0 or levels[-1] == STOP:
            guard.on_save(SimpleNamespace(output_dir="/run"), state, None)
        if levels[-1] == STOP:
            break
    best = state.best_model_checkpoint
    return (int(best.rsplit("-", 1)[1]) if best else None), levels


@pytest.mark.parametrize(
    ("lost", "save_every", "best"),
    [
        ([0.0, 0.01, 0.02, 0.5, 0.5, 0.5], 1, 3),
        ([0.5] * 5, 1, None),  # from the first step on
        ([0.0, 0.01, 0.5, 0.5, 0.5], 4, None),  # saved only after the collapse
        ([0.11] * 4 + [0.5] * 3, 1, None),  # a warning is enough
        ([0.08, 0.09, 0.5, 0.5], 1, 1),  # near the warning, but within the limits: better than nothing
        ([0.08, 0.0, 0.09, 0.5, 0.5], 1, 2),
        ([0.0] * 8, 3, 6),
    ],
)
def test_the_best_checkpoint_is_never_one_that_the_guard_warned_of(lost, save_every, best):
    found, levels = best_of(lost, save_every)
    assert found == best
    assert found is None or levels[found - 1] == OK


def test_an_interim_checkpoint_is_never_the_best():
    trainer, state = SimpleNamespace(is_interim=True), SimpleNamespace(best_model_checkpoint=None, global_step=1)
    guard = CollapseGuard(None, trainer, dict, lambda: None, stops=True, anchored=True)
    guard.detector.observe({**HEALTHY, "lost": 0.0})
    guard.on_save(SimpleNamespace(output_dir="/run"), state, None)
    assert state.best_model_checkpoint is None
    trainer.is_interim = False
    guard.on_save(SimpleNamespace(output_dir="/run"), state, None)
    assert state.best_model_checkpoint == "/run/checkpoint-1"


def test_a_resumed_run_has_the_best_checkpoint_of_one_that_was_not_interrupted(tmp_path):
    """A checkpoint's own record was written before the guard judged it, and its folder may have moved."""
    run = RunDirectory(tmp_path)
    lost = [0.0, 0.0, 0.02, 0.09, 0.5, 0.5]
    run.append("guard.jsonl", [
        {"step": step, "interactions": 8 * step, "measures": {**HEALTHY, "lost": value}}
        for step, value in enumerate(lost, start=1)
    ])  # fmt: skip
    for step in (2, 3, 4, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
        run.mark_complete(step, interim=step == 3)
    for at, best in ((1, None), (2, 2), (4, 2), (5, 2), (6, 2)):
        guard = CollapseGuard(run, SimpleNamespace(is_interim=False), dict, lambda: None, stops=True, anchored=True)
        state = SimpleNamespace(best_model_checkpoint="/elsewhere/checkpoint-1", global_step=at)
        guard.on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, None)
        assert state.best_model_checkpoint == (f"{tmp_path}/checkpoint-{best}" if best else None)


@given(st.lists(st.floats(0, 0.6), min_size=1, max_size=12), st.integers(1, 4))
def test_no_run_has_a_best_checkpoint_beyond_a_limit(lost, save_every):
    found, levels = best_of(lost, save_every)
    if found is not None:
        assert levels[found - 1] == OK and lost[found - 1] < LIMITS["lost"].warn
