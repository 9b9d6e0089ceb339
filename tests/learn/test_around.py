"""Once around the loop: what is shown while the night goes on, and the table at its end."""

import pytest

from sdpo.errors import RunError
from sdpo.learn.around import Loop, Result, is_of_a_stage, table
from sdpo.learn.night import STAGES

UPSTREAM = "http://127.0.0.1:9/v1"


def test_the_lines_of_a_job_are_shown_as_they_are_printed(tmp_path):
    seen: list[str] = []
    loop = Loop(tmp_path, UPSTREAM, UPSTREAM)
    printed = loop.job("versions", "--dry-run", watch=seen.append)
    assert seen == printed.splitlines() and any(line.split()[:2] == ["UPSTREAM", UPSTREAM] for line in seen)
    with pytest.raises(RunError, match=r"^promote ended with code 2: .*no version v0009"):
        loop.job("promote", "--version", "v0009", watch=seen.append)


def test_what_comes_of_each_stage_is_shown_and_nothing_of_the_jobs_in_it():
    assert all(is_of_a_stage(f"{name}: started") for name in STAGES)
    under_way = ("audit: 0:05", "audit: reading: 1:00:05")
    for line in (*under_way, "train-offline: loading", "step    1/2  interactions    16", "", "audit", "report: x"):
        assert not is_of_a_stage(line)


def test_the_table_says_what_adherence_is_adherence_to():
    figures = {"adherence": 0.25, "validity": 1.0, "axes": {"emoji": 0.5, "casual": 0.25, "long": 0.75}}
    after = figures | {"adherence": 0.875}
    result = Result([], {}, "promoted", "better", "v0001", figures, after, {}, [], "v0001", {})
    lines = table(result).splitlines()
    assert lines[0].endswith("in the style that the users want, concise_professional_expert")
    assert lines[1].startswith("(neither long nor casual)")
    assert lines[2].split()[:2] == ["adherence", "validity"] and lines[4].split()[:2] == ["after", "0.875"]
