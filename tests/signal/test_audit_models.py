"""The audit on models trained for this test: three that ignore hindsight and three that follow it.

Their training seeds differ from the one with which the thresholds were set.
"""

import pytest

from sdpo.signal import audit
from sdpo.tiny import hindsight_variants
from tests.worlds import run_audit

pytestmark = pytest.mark.slow

SEEDS = (11, 12, 13)


@pytest.mark.parametrize(("follows_hindsight", "verdict", "code"), [(False, "stop", 6), (True, "go", 0)])
def test_the_verdict_separates_models_that_ignore_hindsight(follows_hindsight, verdict, code, tmp_path):
    models = [hindsight_variants.save(tmp_path, follows_hindsight, seed) for seed in SEEDS]
    candidates, exit_code = run_audit(tmp_path / "run", "--model", " ".join(map(str, models)), "--audit-n", "64")
    assert [row["verdict"] for row in candidates] == [verdict] * len(SEEDS), [row["reasons"] for row in candidates]
    assert exit_code == code
    if not follows_hindsight:
        assert {row["cause"] for row in candidates} == {"model"}
        assert (tmp_path / "run" / audit.PAGE).stat().st_size > 10_000
