"""The audit on models that were trained for it: three that ignore hindsight and three that follow it.

Their seeds are not the one that the thresholds were set with.
"""

import dataclasses
import json

import pytest

from jobs.audit import JOB
from sdpo.resolve import resolve
from sdpo.signal import audit
from sdpo.tiny import MODEL_DIR, hearing

SEEDS = (11, 12, 13)
# Whatever follows it, a model that has never seen such text has little to say.
USELESS = "\n\n[Log] " + "7f3a 9c1d 22e8 b0b0 " * 12 + "{follow_up}" + " e41a 00c7" * 12


def run_audit(out, *flags):
    """Return the candidates of an audit with these flags, and the job's exit code."""
    found = resolve(JOB.settings, ["--tiny", *flags], job=JOB.name, defaults=JOB.defaults, tiny=JOB.tiny)
    found = dataclasses.replace(found, output_dir=out)
    audit.check(found, JOB)
    code = audit.run(found, JOB)
    return json.loads((out / audit.RESULT).read_text("utf-8"))["candidates"], code


@pytest.mark.parametrize(("heeded", "verdict", "code"), [(False, "stop", 6), (True, "go", 0)])
def test_models_that_ignore_hindsight_are_told_from_those_that_follow_it(heeded, verdict, code, tmp_path):
    models = [hearing.save(tmp_path, heeded, seed) for seed in SEEDS]
    candidates, ended = run_audit(tmp_path / "run", "--model", " ".join(map(str, models)), "--audit-n", "64")
    print([(row["verdict"], row["figures"]["telling"], row["figures"]["preference"]) for row in candidates])
    assert [row["verdict"] for row in candidates] == [verdict] * len(SEEDS), [row["reasons"] for row in candidates]
    assert ended == code
    if not heeded:
        assert {row["cause"] for row in candidates} == {"model"}
        assert (tmp_path / "run" / audit.PAGE).stat().st_size > 10_000


def test_a_useless_template_is_named_as_the_cause(tmp_path):
    (tmp_path / "useless.txt").write_text(USELESS)
    flags = ["--model", str(MODEL_DIR), "--audit-n", "64", "--hindsight-file", str(tmp_path / "useless.txt")]
    (shipped, useless), code = run_audit(tmp_path / "run", *flags)
    assert shipped["verdict"] == "go" and code == 0
    assert (useless["verdict"], useless["cause"]) == ("stop", "template")
    # The shipped model hears complaints, and on the very token that they are about.
    sizes, peaks = shipped["figures"]["telling"], shipped["figures"]["peaks"]
    assert sizes["unrelated"] < 0.1 * sizes["size"]
    assert peaks["of"] >= 20 and peaks["right"] >= 0.95 * peaks["of"]
