"""The audit on models that were trained for it: three that ignore hindsight and three that follow it.

Their seeds are not the one that the thresholds were set with.
"""

import pytest

from sdpo.signal import audit
from sdpo.tiny import hindsight_variants
from tests.worlds import run_audit

SEEDS = (11, 12, 13)


@pytest.mark.parametrize(("follows_hindsight", "verdict", "code"), [(False, "stop", 6), (True, "go", 0)])
def test_models_that_ignore_hindsight_are_told_from_those_that_follow_it(follows_hindsight, verdict, code, tmp_path):
    models = [hindsight_variants.save(tmp_path, follows_hindsight, seed) for seed in SEEDS]
    candidates, ended = run_audit(tmp_path / "run", "--model", " ".join(map(str, models)), "--audit-n", "64")
    assert [row["verdict"] for row in candidates] == [verdict] * len(SEEDS), [row["reasons"] for row in candidates]
    assert ended == code
    if not follows_hindsight:
        assert {row["cause"] for row in candidates} == {"model"}
        assert (tmp_path / "run" / audit.PAGE).stat().st_size > 10_000
