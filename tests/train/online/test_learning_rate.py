"""The learning rate of an online run over its steps."""

import json

import pytest

from tests.training import session_of, write_model


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 3 / 4, 2 / 4, 1 / 4]), ("cosine", [1, 0.854, 0.5, 0.146])],
)
def test_the_schedule_sets_the_learning_rate_of_each_step(schedule, expected, tmp_path):
    values = {"lr_schedule": schedule, "lr": 1e-3, "train_n": 8, "bs": 2, "guard": "off"}
    session_of("train_online_tldr", tmp_path / "run", model=write_model(tmp_path / "model"), **values).run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    used = [row["learning_rate"] / 1e-3 for row in rows]
    # A row is written at the end of its step, with the rate of the next one.
    assert used == pytest.approx([*expected[1:], used[-1]], abs=1e-3)
