"""The study: the runs it selects, resuming, and its tables."""

import subprocess
import sys
from dataclasses import asdict
from random import Random
from statistics import fmean
from types import SimpleNamespace

import psutil
import pytest
from transformers import TrainerControl, TrainerState

from sdpo.errors import SettingError
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import StudySettings
from sdpo.settings.resolve import resolve
from sdpo.study import job, tables
from sdpo.study.run import OracleReadings, Spec, collapse_point, learned, objective_of
from sdpo.train.teacher_refresh import WINDOW, RefreshCriterion
from tests.servers import until

pytestmark = pytest.mark.slow


def settings(**values) -> StudySettings:
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return resolve(StudySettings, flags, job="study", environment={})


def result(spec: Spec, adherence: float = 1.0, validity: float = 1.0, fell=None, stopped=None, warned=None) -> dict:
    """A finished run whose curve has the same values at every point."""
    axes = {"emoji": 0.0, "casual": 0.5, "long": 0.5}
    points = [0, *spec.points, spec.interactions * len(spec.styles)]
    curve = [
        {"interactions": at, "adherence": adherence, "validity": validity, "axes": axes,
         "phase": max(0, at - 1) // spec.interactions, "since": at and (at - 1) % spec.interactions + 1,
         "style": spec.styles[max(0, at - 1) // spec.interactions], "kept": dict.fromkeys(spec.styles, adherence)}
        for at in points
    ]  # fmt: skip
    return {"key": spec.key, "spec": asdict(spec), "curve": curve, "fell": fell, "stopped": stopped, "warned": warned,
            "guard": [], "seconds": 1}  # fmt: skip


def test_every_teacher_runs_with_every_objective_and_finalists_get_more_seeds():
    given = settings(parts="table", teachers="live,frozen", objectives="token,full/jsd", finalists="frozen token")
    runs = job.selected_runs(given)
    assert len(runs) == len(set(runs)) == 3 * 3 + 10
    assert {(run.teacher, run.objective) for run in runs} == {
        (teacher, objective) for teacher in ("live", "frozen") for objective in ("token", "full/jsd")
    }
    # The healthy no_emojis runs of part guard are also those of a finalist, and are selected once.
    assert (
        len(job.selected_runs(settings(parts="guard,table", finalists="live token,gated full/reverse+focus")))
        == len(set(job.selected_runs(settings(parts="table", finalists="live token,gated full/reverse+focus")))) + 30
    )


@pytest.mark.parametrize("values", [{"parts": "tables"}, {"teachers": "alive"}, {"recommended": "frozen"}])
def test_unknown_values_are_rejected(values):
    with pytest.raises(SettingError):
        job.check(settings(**values), None)


def test_a_collapse_is_a_low_validity_that_does_not_recover():
    high, low = [1.0] * 10, [0.5] * 10
    assert collapse_point(high) is None and collapse_point([*high, *low, *high]) is None
    # The mean of five steps is first below 0.9 with the second low step (0.8): step 12, of 16 interactions each.
    assert collapse_point([*high, *low]) == 12 * 16
    assert collapse_point([*high, 0.5, *high]) is None and collapse_point([0.5]) is None


def test_objectives_by_name():
    assert objective_of("token+null").null_contrast and objective_of("token+null").kind == "token"
    assert objective_of("full/reverse+focus").focus > 0 and not objective_of("full/reverse").focus
    assert (objective_of("top_k/jsd").kind, objective_of("top_k/jsd").direction) == ("top_k", "jsd")


def test_an_interrupted_study_resumes_where_it_stopped(tmp_path, monkeypatch, capsys):
    made = []

    def results(specs, parallel):
        for spec in specs:
            made.append(spec)
            if len(made) == 2:
                raise KeyboardInterrupt
            yield spec, {name: value for name, value in result(spec).items() if name != "key"}

    monkeypatch.setattr(job, "_results", results)
    given = settings(
        study_dir=tmp_path / "s", study_table=tmp_path / "t" / "study.md", parts="table", teachers="frozen",
        objectives="token", finalists="frozen token", finalist_seeds=3,
    )  # fmt: skip
    (tmp_path / "t").mkdir()
    with pytest.raises(KeyboardInterrupt):
        job.run(given, None)
    job.run(given, None)
    assert len(made) == 4 and made[1] == made[2] and len({made[0], made[1], made[3]}) == 3
    assert "| frozen | token |" in (tmp_path / "t" / "study.md").read_text()
    job.run(given, None)
    assert len(made) == 4


def test_a_changed_guard_is_applied_to_finished_runs(tmp_path):
    given = settings(study_dir=tmp_path, study_table=tmp_path / "study.md", parts="long", seeds=2)
    first, second = job.selected_runs(given)
    lost = [{"interactions": 16 * step, "measures": {"lost": 0.5, "satisfied": 0.5}} for step in range(1, 5)]
    study = RunDirectory(tmp_path)
    study.append(job.RESULTS, [{**result(first, stopped=7), "guard": []}, {**result(second, stopped=7), "guard": []}])
    study.append(job.GUARD_CURVES, [{"key": first.key, "guard": lost}])
    job.run(given, None)
    assert [row["stopped"] for row in study.read_rows(job.RESULTS)] == [32, 7]
    assert "| gated | full/reverse+focus | 0 | 16000 | 1.000 | 1.000 | 32 | no |" in (tmp_path / "study.md").read_text()


def test_the_counts_in_the_tables():
    given = settings()
    collapsing = [
        result(Spec("live", "token", seed), 1.0, 0.5, fell=800, stopped=at, warned=at)
        for seed, at in enumerate((640, 800, 816, None))
    ]
    healthy = [result(Spec("frozen", "token", 0)), result(Spec("frozen", "token", 1), stopped=400, warned=320)]
    text = tables.report(given, [*collapsing, *healthy])
    assert "| live | token | 1.000 | 1.000 | 1.000 | 1.000 | 0.500 | 0.500 | 1.00 / 1.00 / 0.50 | 0.00 | 4/4 |" in text
    # Two of the four collapsed runs would have been stopped in time, and one of the two healthy ones.
    assert "| live | token | no_emojis | 1600 | 2/4 | 0/0 | 0/0 |" in text
    assert "| frozen | token | no_emojis | 1600 | 0/0 | 1/2 | 1/2 |" in text


def test_the_live_runs_of_part_guard_are_in_its_table_only():
    given = settings(parts="guard", finalist_seeds=1)
    text = tables.report(given, [result(run) for run in job.selected_runs(given)])
    assert "| live | token | no_emojis | 8000 |" in text and "## Long runs" not in text


def test_a_style_is_learned_at_two_consecutive_high_readings():
    spec = Spec("frozen", "token", 0, ("no_emojis", "emojis"), 320, (80, 160, 240))
    run = result(spec)
    readings = (0.5, 0.9, 0.97, 0.96, 0.94, 0.96, 0.9, 0.96)  # at 0, 80, 160, 240, 480, 560 and 640
    for point, adherence in zip(run["curve"], readings, strict=False):
        point["adherence"] = adherence
    assert [learned(run["curve"], phase) for phase in (0, 1)] == [240, None]
    assert "| no_emojis, emojis | 0 | 240, – | no_emojis 1.00, emojis 1.00 | no |" in tables.report(settings(), [run])


def test_a_phase_ends_when_its_style_is_learned(monkeypatch):
    spec = Spec("frozen", "token", 0, ("no_emojis", "emojis"), 320, tuple(range(16, 320, 16)), until_learned=True)
    shares = iter((0.5, 0.96, 0.9, 0.97, 0.98, 0.1, *[0.97] * 9))
    user, control = SimpleNamespace(wanted=None), TrainerControl()
    readings = OracleReadings(None, user, spec, lambda: {"validity": 1.0})

    def read(at):
        readings.curve.append({"phase": readings.phase, "since": at - readings.begun, "adherence": next(shares)})

    monkeypatch.setattr(readings, "read", read)
    wanted = []
    for step in range(1, 9):
        readings.on_step_end(None, TrainerState(global_step=step), control)
        wanted.append(user.wanted and user.wanted["emoji"])
    # Two consecutive high readings after steps 4 and 5, and for the next style after steps 7 and 8.
    assert wanted == [None] * 4 + [True] * 4 and control.should_training_stop
    assert [learned(readings.curve, phase) for phase in (0, 1)] == [80, 48]


def test_until_fallen_ends_a_collapsed_run(monkeypatch):
    for until_fallen, last in ((True, 11), (False, 50)):
        spec = Spec("live", "token", 0, interactions=800, points=(), until_fallen=until_fallen)
        control, validities = TrainerControl(), iter([1.0, 0.4, *[0.49] * 48])
        readings = OracleReadings(None, None, spec, lambda validities=validities: {"validity": next(validities)})
        read = []
        monkeypatch.setattr(readings, "read", read.append)
        steps = 0
        while not control.should_training_stop:
            steps += 1
            readings.on_step_end(None, TrainerState(global_step=steps), control)
        assert steps == last and read == [last * 16]  # after ten consecutive steps below 0.5


def test_the_gate_opens_on_more_satisfied_users_and_an_unchanged_answer_length():
    def opens(windows):
        evidence = RefreshCriterion()
        return [any([evidence.observe(*window) for _ in range(WINDOW)]) for window in windows]

    assert opens([(0.4, 20), (0.75, 18), (0.8, 18), (0.9, 22)]) == [False, True, False, True]
    assert opens([(0.4, 20), (0.9, 5), (0.9, 60)]) == [False, False, False]
    # Another style: the satisfaction is compared with that of the same users at first.
    assert opens([(0.9, 20), (0.1, 20), (0.12, 20), (0.6, 20)]) == [False, False, False, True]
    # Satisfaction that only fluctuates by chance opens the gate a few times at the beginning and then never again.
    chance = Random(0)
    satisfied = [(fmean(chance.random() < 0.98 for _ in range(160)), 20) for _ in range(200)]
    opened = opens([(0.5, 20), *satisfied])
    assert 1 <= sum(opened) <= 5 and not any(opened[50:])


def test_a_worker_ends_when_its_study_is_killed():
    script = (
        "import multiprocessing, time\n"
        "from sdpo.study.job import _end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('fork').Process(target=_end_with_parent)\n"
        "    worker.start(); print(worker.pid, flush=True); time.sleep(60)\n"
    )
    study = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(study.stdout.readline())
    assert _runs(worker)
    study.kill()
    study.wait()
    assert until(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
