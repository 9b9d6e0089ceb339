"""How checks are run: each in a process of its own, within limits, whatever the others do; and what is reported."""

import importlib
import json
import time

import psutil
import pytest

from jobs.check_gpu import JOB
from sdpo.errors import SettingError
from sdpo.gpu_checks import registry
from sdpo.gpu_checks.job import RESULTS
from sdpo.gpu_checks.registry import CHECKS, Check, chosen
from sdpo.gpu_checks.report import figure_lines, table
from sdpo.gpu_checks.runner import Runner
from sdpo.runtime.launch import main
from tests.commands import ROOT
from tests.gpu_checks import samples


def sample(function: str, **values: object) -> Check:
    name = function.replace("_", "-")
    return Check(
        **{"name": name, "what": name, "function": f"tests.gpu_checks.samples:{function}", "expected": 1} | values
    )


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs these checks by the job and returns exit code, results by name, and the output."""

    def run(*checks: Check, **settings: object) -> tuple[int, dict[str, dict], str]:
        monkeypatch.setattr(registry, "CHECKS", checks)
        given = {"output_dir": tmp_path / "out"} | settings
        code = main(
            JOB, [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        )
        content = json.loads((tmp_path / "out" / RESULTS).read_text())
        assert {"device", "commit", "versions", "started", "seconds", "budget_seconds"} <= set(content)
        return code, {result["name"]: result for result in content["checks"]}, capsys.readouterr().out

    return run


def test_a_failure_a_crash_and_an_error_do_not_stop_the_others(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BS", "3")  # a setting of another job, which a check's runs must not take
    functions = ("fails", "raises", "crashes", "cannot_run", "passes")
    code, results, output = run(*map(sample, functions))
    assert code == 1
    assert list(results) == ["fails", "raises", "crashes", "cannot-run", "passes"]
    assert [result["status"] for result in results.values()] == ["failed"] * 3 + ["not run", "passed"]
    assert results["fails"]["reason"] == "3 tensors instead of 4" and results["fails"]["figures"] == {"tensors": 3}
    assert results["raises"]["reason"] == "ValueError: no such thing" and "Traceback" in results["raises"]["log"]
    assert "signal 9" in results["crashes"]["reason"] and "the last words" in results["crashes"]["log"]
    assert results["cannot-run"]["reason"] == "no such library"
    assert results["passes"]["figures"] == {"device": "cpu", "empty": True, "bs": None}
    assert "1 passed, 3 failed, 1 not run" in output and "3 tensors instead of 4" in output
    left = {path.name for path in (tmp_path / "out").iterdir()} - {".lock", RESULTS}
    assert left == {f"{name}.log" for name in results}


@pytest.mark.slow
def test_a_check_that_hangs_is_ended_at_its_limit_with_all_that_it_started(run, tmp_path):
    started = time.monotonic()
    code, results, _ = run(sample("hangs"), sample("passes"), check_seconds=6)
    assert code == 1 and time.monotonic() - started < 60
    assert results["hangs"]["status"] == "failed" and "ended after 6 s" in results["hangs"]["reason"]
    assert results["passes"]["status"] == "passed"
    child = int((tmp_path / "out" / samples.CHILD_FILE).read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_checks_run_beside_each_other_but_never_beside_one_that_is_alone(tmp_path):
    names = ("a", "b", "c", "d")
    checks = [sample("naps", name=name, alone=name == "c") for name in names]
    results: dict[str, dict] = {}
    Runner("cpu", tmp_path, 60, at_once=2).run(
        checks, lambda result: results.update({result["name"]: result["figures"]})
    )
    assert set(results) == set(names)
    a, b, c, d = (results[name] for name in names)
    assert a["start"] < b["end"] and b["start"] < a["end"]
    assert max(a["end"], b["end"]) < c["start"] and c["end"] < d["start"]


def test_what_no_longer_fits_the_budget_is_not_run_and_is_no_failure(run):
    code, results, _ = run(sample("hangs"), sample("passes", expected=30), budget_seconds=3)
    assert code == 0
    assert [result["status"] for result in results.values()] == ["not run", "not run"]
    assert "BUDGET_SECONDS ended" in results["hangs"]["reason"]
    assert "takes about 30" in results["passes"]["reason"]


def test_without_a_gpu_or_a_package_a_check_says_so_and_starts_nothing(run):
    code, results, output = run(sample("passes", gpu=True), sample("fails", needs=("no_such_package",)))
    assert code == 0
    assert results["passes"]["reason"] == "no CUDA device"
    assert results["fails"]["reason"] == "no_such_package not installed"
    assert "0 passed, 0 failed, 2 not run" in output


def test_checks_are_chosen_by_name_in_the_order_of_the_list():
    assert chosen("all") == list(CHECKS)
    assert [check.name for check in chosen("shape-4b, rows")] == ["rows", "shape-4b"]
    with pytest.raises(SettingError, match=r"CHECKS=row is unknown\. Did you mean rows\?"):
        chosen("row")
    with pytest.raises(SettingError, match=r"CHECKS=, names no check\. Choose from device, "):
        chosen(",")
    assert main(JOB, ["--checks", "no-such-check"]) == 2


def test_every_check_exists_fits_the_budget_and_is_documented():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    documented = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    for check in CHECKS:
        module, _, function = check.function.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert check.expected < check.limit
        assert f"`{check.name}`" in documented
    assert sum(check.expected for check in CHECKS if check.alone) < JOB.settings().budget_seconds


def test_figures_are_shown_by_level_and_long_lines_are_broken():
    figures = {"steps": 4, "token": {"seconds": 0.123456, "memory": {"weights": 1.5}}}
    assert list(figure_lines(figures)) == ["steps 4", "token: seconds 0.1235", "token: memory: weights 1.5"]
    many = {f"figure_{number}": 0.123456 for number in range(12)}
    lines = list(figure_lines(many, "all: "))
    assert len(lines) > 1 and max(map(len, lines)) <= 100 and all(line.startswith((" ", "all: ")) for line in lines)
    assert ", ".join(line.removeprefix("all: ").strip() for line in lines).count("figure_") == 12


def test_the_table_has_a_reason_or_figures_for_each_check():
    shared = {"what": "w", "seconds": 2.0, "figures": {}, "reason": ""}
    text = table(
        [
            shared | {"name": "a", "status": "passed"},
            shared | {"name": "b", "status": "failed", "reason": "why", "figures": {"x": 1}},
            shared | {"name": "c", "status": "not run", "reason": "no CUDA device", "seconds": 0.0},
        ]
    )
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["a", "passed", "2.0", "w"] and rows[2] == ["b", "failed", "2.0", "why"]
    assert rows[3] == ["x", "1"] and rows[4][:4] == ["c", "not", "run", "-"]
