"""The guard's decision on what it measured in runs of real models: `real_runs.json`, step by step.

Each run has batches of 8, a user by rule who wants at most 30 words (in one run no lists), and answers of at most 64
tokens.
"""

import json
from pathlib import Path

import pytest

from sdpo.train.collapse import OK, STOP, CollapseDetector

RUNS = {run["name"]: run for run in json.loads(Path(__file__).with_name("real_runs.json").read_text("utf-8"))}


def levels(name: str) -> list[int]:
    run = RUNS[name]
    detector = CollapseDetector(run["anchored"])
    return [detector.observe(measures) for measures in run["measures"]]


def test_word_salad_is_stopped_before_answers_are_half_a_nat_less_likely():
    measured = [measures["surprise"] for measures in RUNS["live-2e-5"]["measures"]]
    stop = levels("live-2e-5").index(STOP)
    assert sum(measured[: stop + 1][-3:]) / 3 < 0.5


@pytest.mark.parametrize(("name", "short", "steps"), [("frozen-2e-4", 20, 2), ("ema-5e-5", 12, 1)])
def test_answers_of_a_few_words_are_stopped_at_once(name, short, steps):
    lengths = [measures["length"] for measures in RUNS[name]["measures"]]
    stop = levels(name).index(STOP)
    first_short = next(step for step, length in enumerate(lengths) if length < short)
    assert stop - first_short <= steps


def test_a_live_teacher_is_stopped_with_a_contrast_too():
    measured = [measures["surprise"] for measures in RUNS["live-contrast-1e-4"]["measures"]]
    stop = levels("live-contrast-1e-4").index(STOP)
    assert sum(measured[: stop + 1][-3:]) / 3 < 0.5


def test_a_larger_model_is_stopped_once_it_is_far_from_the_start():
    measures = RUNS["recommended-1.5b"]["measures"]
    stop = levels("recommended-1.5b").index(STOP)
    assert stop == len(measures) - 1 and max(row.get("distance", 0) for row in measures) > 0.15


HEALTHY = ["frozen-slow", "frozen-5e-5", "plausible-5e-5", "recommended-0.5b", "recommended-0.5b-again"]
HEALTHY += ["recommended-1.5b-lists", "recommended-135m"]


@pytest.mark.parametrize("name", HEALTHY)
def test_runs_that_learn_and_keep_the_language_are_not_stopped(name):
    assert STOP not in levels(name)
    assert levels(name)[0] == OK
