"""The report: what the page says of runs, evaluations and nights; broken folders; size and speed; the command."""

import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs import report as job_module
from sdpo import errors
from sdpo import settings as settings_module
from sdpo.errors import RunError
from sdpo.report import write_report
from sdpo.report.curves import POINTS, Curve
from sdpo.report.folder import read_folder
from sdpo.runtime.launch import main
from tests.commands import JOBS, ROOT, clean_environment
from tests.report.folders import rows, sample, settings_for, write_evaluation, write_night, write_run

RECORDED = Path(__file__).parents[1] / "train" / "recorded"


class Reader(HTMLParser):
    """The text of a page, its elements and attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.elements, self._skip = "", [], False
        self.feed(path.read_text("utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._skip = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._skip = False
        self.text += " " if tag not in ("span", "b", "a") else ""

    def handle_data(self, data):
        self.text += "" if self._skip else data


def page_of(*folders: Path, path: Path | None = None) -> Reader:
    return Reader(write_report(*folders, path=path))


def test_the_page_of_a_run_says_what_was_run_and_what_came_of_it(tmp_path):
    folder = write_run(tmp_path / "run")
    page = page_of(folder)
    text = page.text
    assert "finished It finished after 12 steps." in text
    assert "make train-online-tldr STYLE=no_emojis SEED=7 TINY=1" in text
    assert all(title in text for title in ("Curves", "Guard", "Samples over training", "Cost and time", "All settings"))
    assert "adherence 0.250 0.875" in text and "share emoji 0.750 0.750" in text and "after 8" not in text
    assert "before 0" in text and "after 6" in text  # answers spread over the file
    assert "step 12, warned: lost 0.010" in text
    assert "time, whole run 1 min 2 s" in text and "tokens of answers 3,840" in text
    assert "$0.0125" in text and "answers 12.0 s (50%)" in text and "without a usable follow-up 12" in text
    curves = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert any(label.startswith("share of users satisfied: 0.221 → 0.950") for label in curves)
    assert not any("learning rate" in label for label in curves)  # it never changes
    assert "cannot be shown" not in text and "is missing" not in text


def test_samples_are_from_the_whole_run_and_coloured_by_their_signal(tmp_path):
    page = page_of(write_run(tmp_path / "run", steps=100))
    steps = [int(step) for step in re.findall(r"step (\d+): \d interaction", page.text)]
    assert len(steps) == 8 and steps[0] == 1 and steps[-1] == 100 and steps == sorted(steps)
    assert "the prompt of step 100, 0" in page.text and "without emojis please, 100" in page.text
    assert page.text.count("follow-up (complaint, not satisfied)") == 8 * 3
    emoji = [attributes for _, attributes in page.elements if attributes.get("title") == "−9.50 nats"]
    assert len(emoji) == 8 * 3 and all("background:#b7212f" in cell["style"] for cell in emoji)
    assert all(cell["class"].split() == ["t", "less"] for cell in emoji)


def test_the_page_is_self_contained_and_runs_nothing(tmp_path):
    page = page_of(write_night(tmp_path / "night"))
    policies = [attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes]
    assert len(policies) == 1 and "default-src 'none'" in policies[0] and "script-src 'none'" in policies[0]
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "form", "base"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert ":" not in attributes.get(name, ""), attributes


def test_an_evaluation_shows_its_verdict_with_the_figure_of_every_rule(tmp_path):
    text = page_of(write_evaluation(tmp_path / "run" / "eval")).text
    assert "Verdict: keep the model that is there (checkpoint-12: sdpo_facts)" in text
    assert "sdpo_facts -0.250 -0.020 failed facts fell by 25 %" in text
    assert "gain 0.438 0.300 to 0.500 0.000 passed it gains" in text
    assert "12 oracle 0.933 0.820 to 0.980 42 3 51" in text and "few" in text
    assert "sdpo_facts acc 12 64 0.7500 0.5000 -0.2500 0.0600" in text
    assert "baseline -0.20 0.500 0.400 to 0.600" in text and "not measured: distance" in text
    assert "oracle 64 0.970 0.900 to 0.990" in text
    assert f"make eval-tldr RUN_DIR={tmp_path / 'run'} EVAL_N=96 TINY=1" in text


def test_a_benchmark_that_is_no_number_leaves_the_others_on_the_page(tmp_path):
    folder = write_evaluation(tmp_path / "eval")
    written = json.loads((folder / "eval.json").read_text())
    broken = written["benchmarks"][0] | {"task": "wiki", "value": None, "difference": None, "standard_error": None}
    written["benchmarks"].append(broken)
    (folder / "eval.json").write_text(json.dumps(written))
    text = page_of(folder).text
    assert "sdpo_facts acc 12 64 0.7500 0.5000 -0.2500 0.0600" in text and "wiki acc 12 64 0.7500 – – –" in text


def test_a_run_and_its_evaluation_are_on_one_page_with_links_to_their_own(tmp_path):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "eval")
    page = page_of(run)
    assert "Report of the training run run" in page.text and "Evaluation: run/eval" in page.text
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["#part0", "#part1", "eval/pairs.html"] and (run / "eval" / "pairs.html").exists()
    assert "run training run finished no_emojis 0.250 → 0.875 1 min 2 s" in page.text
    assert "run/eval evaluation finished no_emojis keep the model that is there" in page.text
    assert page_of(run, run / "eval").text.count("Verdict:") == 1  # not twice
    own = page_of(run / "eval")
    assert [attributes["href"] for tag, attributes in own.elements if tag == "a"] == ["pairs.html", "../report.html"]


def test_a_night_of_learning_shows_its_journal_its_run_and_its_evaluation(tmp_path):
    page = page_of(write_night(tmp_path / "n1"))
    assert "kept v0003 does not go live: facts fell" in page.text
    assert "collect 1,000 conversations" in page.text and "version v0003" in page.text and "aaaa" not in page.text
    assert "org/m, template before: go with changes it moves answers Change: MIN_SIGNAL=0.02" in page.text
    order = [page.text.index(title) for title in ("Run: audit", "Training run: train", "Evaluation: n1/evaluation")]
    assert order == sorted(order)
    assert "Training run: train" in page.text and "Evaluation: n1/evaluation" in page.text
    lines = (tmp_path / "n1" / "learn.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "n1" / "learn.jsonl").write_text(lines[0] + lines[1][:40])
    text = page_of(tmp_path / "n1").text
    assert "unfinished Its last stage that ended is collect" in text and "1 line(s) of learn.jsonl" in text


def test_several_runs_share_a_chart_for_each_measure(tmp_path):
    folders = [write_run(tmp_path / name, steps=5 + 3 * number) for number, name in enumerate(("one", "two"))]
    page = page_of(*folders, path=tmp_path / "both.html")
    shared = [
        attributes["aria-label"] for tag, attributes in page.elements if tag == "svg" and "one:" in str(attributes)
    ]
    assert shared and all("two:" in label for label in shared)
    assert not (folders[0] / "report.html").exists() and "Report of 2 folders" in page.text


def test_of_a_folder_with_many_runs_the_newest_are_shown_and_the_others_counted(tmp_path):
    for number in range(30):
        run = write_run(tmp_path / f"run-{number:02}", steps=1)
        write_evaluation(run / "eval")
        for file in [*run.glob("*.json*"), *(run / "eval").glob("*.json")]:
            os.utime(file, (1e9 + number, 1e9 + number))
    os.utime(tmp_path / "run-03" / "eval" / "eval.json", (2e9, 2e9))  # evaluated last
    folder = read_folder(tmp_path)
    shown = {one.path.relative_to(tmp_path).parts[0] for one in folder.inside}
    assert shown == {"run-03", *(f"run-{number}" for number in range(19, 30))} and len(folder.inside) == 24
    assert "36 older runs and evaluations in it are left out" in page_of(tmp_path).text


def test_runs_whose_last_names_agree_have_curves_of_their_own(tmp_path):
    folders = [write_run(tmp_path / first / "runs" / "tldr" / "a", steps=3) for first in ("one", "two")]
    page = page_of(*folders, path=tmp_path / "both.html")
    labels = [str(attributes["aria-label"]) for tag, attributes in page.elements if tag == "svg"]
    assert any("one/runs/tldr/a:" in label and "two/runs/tldr/a:" in label for label in labels)


# The command


@pytest.mark.parametrize(
    ("job", "flags"),
    [
        (
            "jobs.train_online_tldr",
            ["--tiny", "--lr", "1e-4", "--style-file", "", "--null-follow-up", 'it\'s "so" $HOME'],
        ),
        ("jobs.train_online_helpsteer", ["--tiny", "--recipe", "recommended", "--train-n", "96"]),
        ("jobs.train_offline", ["--base-model", "org/m", "--epochs", "1", "--adapter", "lora", "--gpus", "2"]),
    ],
)
def test_the_command_repeats_the_run(tmp_path, job, flags):
    write_run(tmp_path / "run", job=job, flags=flags)
    text = (write_report(tmp_path / "run")).read_text("utf-8")
    command = Reader(tmp_path / "run" / "report.html").text.partition("How to repeat it ")[2]
    match = re.search(r"<pre tabindex='0'>(make .*?)</pre>", text, re.S)
    assert match and command.startswith("make ")
    from html import unescape

    make, target, *words = shlex.split(unescape(match[1]).replace("$$", "$"))  # as make reads it
    assert (make, target) == ("make", JOBS[job].name)
    given = dict(word.split("=", 1) for word in words)
    assert settings_module.redacted(settings_for(job, **given)) == settings_module.redacted(settings_for(job, *flags))


def test_without_a_makefile_the_command_is_that_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "_PROGRAM", "sdpo")
    assert "sdpo train-online-tldr TINY=1" in page_of(write_run(tmp_path / "run", flags=["--tiny"])).text


def test_a_folder_from_before_given_settings_were_recorded_names_those_that_differ(tmp_path):
    folder = write_run(tmp_path / "run")
    written = json.loads((folder / "run.json").read_text())
    del written["given"]
    (folder / "run.json").write_text(json.dumps(written))
    text = page_of(folder).text
    assert re.search(r"make train-online-tldr .*SEED=7.*TINY=1", text) and "these differ from the declared" in text


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_runs_of_an_earlier_version_have_a_page(kind, tmp_path):
    page = page_of(RECORDED / kind, path=tmp_path / "page.html")
    assert f"make train-{kind}" in page.text and "Samples over training" in page.text and "expected" not in page.text
    assert ("Evaluation: online/eval" in page.text) == (kind == "online")


def test_no_secret_is_on_the_page(tmp_path):
    secret = "s3cr3t-value"
    folder = write_run(tmp_path / "run", flags=["--tiny", "--simulator-url", f"http://me:{secret}@localhost:1/v1"])
    written = json.loads((folder / "run.json").read_text())
    written["given"]["hf_token"] = secret  # no job records one; the page would leave it out
    (folder / "run.json").write_text(json.dumps(written))
    assert secret not in write_report(folder).read_text("utf-8")


# Folders that are not whole

FILES = [
    "run.json",
    "metrics.jsonl",
    "samples.jsonl",
    "summary.json",
    "guard.jsonl",
    "meter.json",
    "answers-after.jsonl",
]
OF_EVALUATION = ["eval.json", "release.json"]
BROKEN = [
    b"", b"\n\n", b"[]", b"null", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000, b'{"settings": 3, "rows": {"a": 1}}',
    b'{"step": "x", "tokens": [1, null], "signal": ["a", null], "seconds": 5, "before": []}',
    b'{"settings": {"lr": {"a": [1]}}, "versions": [1], "command": "x", "job": 5, "finished": true}',
    b'{"requests": "many", "rows": [{"win_rate": []}]}',
    b'{"releases": [{"rules": [{"figure": "x"}], "reasons": 5}], "benchmarks": [{"task": 5}], "condition": {"a": 5}}',
]  # fmt: skip


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named_and_the_rest_is_shown(missing, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / missing).unlink()
    text = page_of(folder).text
    if missing in FILES[:4]:
        assert f"{missing} is missing" in text
    assert ("Curves" in text) and ("Samples over training" in text) == (missing != "samples.jsonl")


@pytest.mark.parametrize("name", [*FILES, *OF_EVALUATION])
def test_files_with_any_content_give_a_page(name, tmp_path):
    folder = write_run(tmp_path / "run")
    write_evaluation(folder / "eval")
    target = folder / "eval" / name if name in OF_EVALUATION else folder / name
    whole = target.read_bytes()
    for content in [*BROKEN, whole[: len(whole) // 2], whole + b'{"half": ', whole + b"\x00\x01"]:
        target.write_bytes(content)
        page = page_of(folder)
        assert "Training run: run" in page.text and "Evaluation: run/eval" in page.text


def test_a_killed_run_says_where_it_stands_and_how_it_goes_on(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    for step, complete in ((6, True), (12, False)):
        (folder / f"checkpoint-{step}").mkdir()
        if complete:
            (folder / f"checkpoint-{step}" / "complete.json").write_text("{}")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "inter')
    text = page_of(folder).text
    assert "unfinished It has not finished: its last recorded step is 12" in text and "(checkpoint-6)" in text
    assert "checkpoint-6, checkpoint-12 (not usable)" in text and "1 line(s) of metrics.jsonl cannot be read" in text


def test_a_run_that_the_guard_stopped_names_the_best_checkpoint(tmp_path):
    folder = write_run(tmp_path / "run")
    stopped = {"step": 9, "reasons": ["lost 0.2"]}
    summary = {"stopped_by_guard": stopped, "best_checkpoint": "checkpoint-6", "finished": True}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert (
        "stopped by the guard The guard stopped it after step 9: lost 0.2; checkpoint-6 is the" in page_of(folder).text
    )


def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"has no run\.json"):
        write_report(tmp_path)
    assert main(job_module.JOB, ["--run-dir", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "report.html").exists()


def test_text_of_a_model_stays_text(tmp_path):
    folder = write_run(tmp_path / "run")
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\ud800\x00"
    hostile = sample(1) | {"prompt": evil, "follow_up": evil, "kind": evil, "tokens": [evil] * 8}
    rows(folder / "samples.jsonl", [hostile])
    rows(folder / "answers-after.jsonl", [{"prompt": evil, "answer": evil}])
    written = json.loads((folder / "run.json").read_text())
    written["settings"]["style"] = written["given"]["style"] = written["commit"] = evil
    (folder / "run.json").write_text(json.dumps(written))
    page = page_of(folder)
    assert not {"script", "img"} & {tag for tag, _ in page.elements} and "alert(2)" in page.text


# Size and speed


def test_a_long_run_costs_no_more(tmp_path):
    folder = write_run(tmp_path / "run", steps=3)
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 100_001):
            value = 9.0 if step == 77_777 else 0.5
            file.write(json.dumps(row | {"step": step, "interactions": 16 * step, "signal_size": value}) + "\n")
    with (folder / "samples.jsonl").open("w") as file:
        for step in range(1, 20_001):
            file.write(json.dumps(sample(step)) + "\n")
    page = write_report(folder)
    assert page.stat().st_size < 1_500_000
    labels = [attributes for tag, attributes in Reader(page).elements if tag == "polygon"]
    assert labels  # the one high value is in the band of its curve
    assert "100,000" in Reader(page).text


def test_a_curve_keeps_its_extremes_its_mean_and_its_ends():
    curve = Curve()
    values = [float((7 * step) % 101) for step in range(1, 50_003)]
    values[31_000] = 1e6
    for step, value in enumerate(values, start=1):
        curve.add(step, value)
    assert len(curve.buckets) <= POINTS
    assert sum(bucket[2] for bucket in curve.buckets) == len(values)
    assert sum(bucket[3] for bucket in curve.buckets) == pytest.approx(sum(values))
    assert curve.buckets[0][0] == 1 and curve.buckets[-1][1] == len(values)
    assert max(bucket[5] for bucket in curve.buckets) == 1e6


def test_writing_a_page_imports_nothing_heavy(tmp_path):
    write_night(tmp_path / "night")
    code = (
        "import sys; from pathlib import Path; from sdpo.report import write_report; write_report(Path(sys.argv[1]));"
    )
    code += "assert not {'torch', 'transformers', 'matplotlib', 'httpx'} & set(sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "night")]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr


def test_rows_of_a_place_are_of_one_step(tmp_path):
    folder = write_run(tmp_path / "run", steps=57)
    for places in (1, 2, 5, 8, 100):
        groups = read_folder(folder).spread_rows("samples.jsonl", places, 4)
        steps = [{row["step"] for row in group} for group in groups]
        assert all(len(step) == 1 for step in steps) and len(groups) <= places
        assert [min(step) for step in steps] == sorted(min(step) for step in steps)


# The job


def test_make_report_writes_the_page_of_the_newest_run_or_of_several(tmp_path, empty_folder, capsys):
    assert main(job_module.JOB, []) == 2 and "RUN_DIR is not set" in capsys.readouterr().err
    runs = [write_run(Path("runs/sdpo-tldr-runs") / name) for name in ("a", "b")]
    (runs[1] / "checkpoint-3").mkdir()
    assert main(job_module.JOB, []) == 0
    assert (runs[1] / "report.html").exists() and "report.html" in capsys.readouterr().out
    assert main(job_module.JOB, ["--run-dir", f"{runs[0]} {runs[1]}"]) == 0
    assert Path("runs/report.html").exists() and not (runs[0] / "report.html").exists()
    assert main(job_module.JOB, ["--run-dir", str(runs[0]), "--report-file", "pages/one.html"]) == 0
    assert Path("pages/one.html").exists()
    assert main(job_module.JOB, ["--run-dir", str(runs[0]), "--report-file", "pages/"]) == 0
    assert Path("pages/report.html").exists()
    assert main(job_module.JOB, ["--run-dir", str(runs[0]), "--report-file", "other/"]) == 2
    assert "REPORT_FILE=other is no page" in capsys.readouterr().err and not Path("other").exists()
    assert (
        main(job_module.JOB, ["--run-dir", str(runs[0]), "--dry-run"]) == 0 and not (runs[0] / "report.html").exists()
    )


ENDING = """
import sys
from dataclasses import dataclass
from pathlib import Path
from sdpo.errors import ServerError
from sdpo.runtime.launch import Job, main
from sdpo.settings import LaunchSettings, setting

@dataclass(frozen=True, kw_only=True)
class EndingSettings(LaunchSettings):
    '''The ending.'''
    behaviour: str = setting("end", "what to do")

JOB = Job(name="ending", summary="it ends", settings=EndingSettings, folder="f", run="ending:run",
          report="ending:report" if "broken" in sys.argv else "sdpo.report:write_report", module="ending")

def run(settings, job):
    if settings.behaviour != "nothing":
        (settings.output_dir / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\\n')
    if settings.behaviour == "fail":
        raise ServerError("the user does not respond")

def report(folder):
    raise KeyError("a bug in the report")

if __name__ == "__main__":
    raise SystemExit(main(JOB))
"""


@pytest.mark.parametrize(("behaviour", "code"), [("end", 0), ("fail", 3), ("nothing", 0), ("broken", 0)])
def test_a_job_ends_with_its_report_which_never_changes_how_it_ends(behaviour, code, tmp_path):
    (tmp_path / "ending.py").write_text(ENDING)
    command = [sys.executable, "-m", "ending", "--run-id", "r", "--behaviour", behaviour]
    environment = clean_environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    page = tmp_path / "runs" / "f" / "r" / "report.html"
    assert page.exists() == (behaviour in ("end", "fail"))
    assert (f"report: {page}" in done.stdout) == (behaviour == "end")
    if behaviour == "fail":  # one stream, so that the error is last in a container's log too
        report, error = done.stderr.splitlines()[-2:]
        assert report == f"report: {page}" and error.startswith("error: ")
    assert ("the report cannot be written: 'a bug in the report'" in done.stderr) == (behaviour == "broken")
    assert "Traceback" not in done.stderr


def test_every_job_that_trains_or_evaluates_ends_with_a_report():
    kinds = (settings_module.TrainingSettings, settings_module.EvalSettings)
    jobs = {name: job for name, job in JOBS.items() if issubclass(job.settings, kinds)}
    assert len(jobs) >= 9
    assert {name for name, job in jobs.items() if job.report != "sdpo.report:write_report"} <= {"jobs.simulator"}
