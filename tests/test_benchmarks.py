"""The check of the counted ratios: what is worse than the baseline is named."""

import json

from benchmarks.ratios import BASELINE, slope, teacher_ratios, worse


def test_what_is_worse_is_named_and_what_is_better_is_not():
    baseline = {"teacher tokens, after": 0.6, "memory, full": 1.0, "slope, bytes by length": -0.1}
    assert worse(baseline, baseline) == []
    assert worse({**baseline, "memory, full": 1.04, "teacher tokens, after": 0.3}, baseline) == []
    (line,) = worse({**baseline, "memory, full": 1.2}, baseline)
    assert line.startswith("memory, full: 1.200, 1.000")
    assert worse({}, {"gone": 1.0}) == worse({"gone": 1.0}, {}) == ["gone: only in one of them"]


def test_the_counted_tokens_of_the_teacher_are_those_of_the_baseline():
    baseline = json.loads(BASELINE.read_text("utf-8"))
    measured = teacher_ratios()
    assert worse(measured, {name: value for name, value in baseline.items() if name in measured}) == []
    assert measured["teacher forwards"] < 0.4 and measured["teacher tokens, after"] < measured["teacher tokens, system"]


def test_the_slope_of_a_square_is_two():
    assert abs(slope([1, 2, 4], [3, 12, 48]) - 2) < 1e-9
