"""Runs after each other: the matrix of every taste after every run, and which folders RUN_DIR names."""

import json
from pathlib import Path

import pytest

from jobs import eval as eval_job
from jobs import eval_tldr
from sdpo.evaluate.forgetting_matrix import Matrix, adherence_cell, win_rate_cell
from sdpo.evaluate.forgetting_report import FILES, draw_matrix, table
from sdpo.evaluate.results import REPORT
from sdpo.evaluate.trained_run import fill
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import EvalSettings
from sdpo.settings.checks import folder_words, folders_in
from sdpo.settings.resolve import resolve
from sdpo.text.prompts import PERSONAS
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.world import TinyOracle
from tests.evaluate.test_answers import make_adapter
from tests.evaluate.test_evaluation import verdict_by
from tests.evaluations import add_checkpoint, arguments, make_run
from tests.servers import FakeServer

# By hand


def matrix_of(fits: dict[str, dict[str, list[int]]], learned_after: dict[str, str]) -> Matrix:
    cells = {
        (model, taste): adherence_cell([bool(value) for value in values])
        for model, by_taste in fits.items()
        for taste, values in by_taste.items()
    }
    return Matrix(list(fits), list(learned_after), cells, learned_after)


HAND = matrix_of(
    {
        "start": {"short": [0, 0, 1, 0], "formal": [0, 0, 0, 0]},
        "after a": {"short": [1, 1, 1, 1], "formal": [0, 1, 0, 0]},
        "after b": {"short": [1, 0, 1, 0], "formal": [1, 1, 1, 0]},
    },
    {"short": "after a", "formal": "after b"},
)


def test_what_was_forgotten_worked_by_hand():
    assert HAND.cells["start", "short"].value == 0.25 and HAND.cells["after b", "formal"].value == 0.75
    assert HAND.cells["after a", "short"].high == 1.0 and HAND.cells["after a", "short"].low < 0.6
    (row,) = HAND.forgotten()  # the last run's taste has had no time to be forgotten
    assert (row.taste, row.learned_after, row.learned, row.last) == ("short", "after a", 1.0, 0.5)
    # The paired differences are 0, −1, 0, −1: their standard deviation is √(1/3), over four prompts.
    assert row.difference == -0.5 and row.standard_error == pytest.approx((1 / 3) ** 0.5 / 2)
    assert HAND.mean_forgotten() == -0.5
    text = table(HAND)
    assert text.splitlines()[0].split() == ["short", "formal"]
    assert (
        "after a  1.000 [0.510, 1.000]" in text and "short: 1.000 after a, 0.500 after b (-0.500, s.e. 0.289)" in text
    )


def test_win_rates_count_the_winners_only():
    cell = win_rate_cell([("A", "B"), ("A", "B"), ("B", "A"), ("A", "A"), None, (None, "A")])
    assert cell.value == pytest.approx(2 / 3) and cell.answers == 3 and cell.low < 0.3
    assert win_rate_cell([None, ("C", "C")]).value is None


def test_a_matrix_with_gaps_is_drawn(tmp_path):
    cells = dict(HAND.cells)
    cells |= {(model, "b$d"): win_rate_cell([("A", "B")] if model == "after b" else []) for model in HAND.models}
    matrix = Matrix(HAND.models, [*HAND.tastes, "b$d"], cells, {**HAND.learned_after, "b$d": "after a"})
    path = draw_matrix(tmp_path / "forgetting.png", matrix)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    text = table(matrix)
    assert "b$d (win rate)" in text and "b$d: no answer is judged better or worse" in text
    assert matrix.mean_forgotten() == -0.5


# Which folders


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    for name in ("a", "b", "my run", "a b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a  b", ["a", "b"]),
        ("a b", ["a b"]),  # an existing path as a whole is one
        ("my run", ["my run"]),
        ("b 'my run' a", ["b", "my run", "a"]),
        ("'my run'", ["my run"]),
        ("a a", ["a", "a"]),
        ("b/ ./a", ["b", "a"]),
    ],
)
def test_run_dir_names_one_folder_or_several(folders, text, names):
    assert folders_in(Path(text)) == [Path(name) for name in names] and folder_words(Path(text)) is None


def test_an_open_quote_is_refused():
    assert folder_words(Path("a 'b")) == "folders with every quote closed"


# Runs

STYLES = {"a": "no_emojis", "b": "short", "c": "formal"}


def make_runs(root: Path, **styles: str) -> list[Path]:
    """Create a run for each style, each started from the checkpoint of the one before, and return their folders."""
    model, found = str(MODEL_DIR), []
    for number, (name, style) in enumerate(styles.items(), start=1):
        persona = TinyOracle(style) and (PERSONAS.get(style) or f"I like {style} answers.")
        run = make_run(root / name, style=style, model=model)
        facts = RunDirectory(run).read_json("run.json")
        RunDirectory(run).write_json("run.json", facts | {"persona": persona})
        add_checkpoint(run, 1)
        model = str(add_checkpoint(run, number + 1, noise=0.004 * number))
        found.append(run)
    return found


def matrix_job(runs: list[Path], expect: int = 0, job=eval_tldr.JOB, **settings) -> dict:
    """Evaluate several runs in this process and return the content of forgetting.json."""
    given = {"eval_n": 12, "run_dir": " ".join(map(str, runs))} | settings
    code = main(job, arguments(runs[0], **given))
    assert code == expect, f"exit {code}, expected {expect}"
    path = runs[-1] / "eval" / "forgetting" / "forgetting.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


@pytest.mark.slow
def test_the_matrix_of_three_runs(tmp_path, capsys, monkeypatch):
    runs = make_runs(tmp_path, **STYLES)
    report = matrix_job(runs, condition=1, job=eval_job.JOB)
    assert report["models"] == ["start", "after a", "after b", "after c"] and report["tastes"] == list(STYLES.values())
    assert [row["checkpoint"] for row in report["runs"]] == [2, 3, 4]
    assert report["runs"][1]["started_from"] == str(runs[0] / "checkpoint-2")
    folder = runs[-1] / "eval" / "forgetting"
    # Every cell is what the oracle reads in the answers that were stored.
    answers = [json.loads(line)["value"][0] for line in (folder / "answers-0.jsonl").read_text("utf-8").splitlines()]
    assert len(answers) == 4 * 12 and len(report["cells"]) == 4 * 3 and len(set(report["weights"].values())) == 4
    for style in STYLES.values():
        cells = [cell for cell in report["cells"] if cell["taste"] == style]
        suitable = sum(round(cell["value"] * 12) for cell in cells)
        assert suitable == sum(map(TinyOracle(style).fits, answers)) and all(cell["answers"] == 12 for cell in cells)
        assert all(cell["low"] <= cell["value"] <= cell["high"] and cell["measure"] == "adherence" for cell in cells)
    assert [row["taste"] for row in report["forgotten"]] == ["no_emojis", "short"]
    assert report["condition"]["after c"]["fluency"] < 0 and list(report["condition"]) == report["models"]
    assert (folder / "forgetting.png").stat().st_size > 5000
    out = capsys.readouterr().out
    assert "3 runs after each other, 12 prompts" in out and "\nafter b" in out and "\ncondition\n" in out
    assert not (runs[-1] / "eval" / "eval.json").exists()
    # A second evaluation generates and scores nothing.
    from sdpo.evaluate.models import ModelCache

    monkeypatch.setattr(ModelCache, "load", None)
    assert matrix_job(runs, condition=1)["cells"] == report["cells"]


@pytest.mark.slow
def test_tastes_that_nothing_reads_are_judged_if_a_judge_is_named(tmp_path, capsys):
    runs = make_runs(tmp_path, **dict(list(STYLES.items())[:2]))
    facts = RunDirectory(runs[0]).read_json("run.json")
    (tmp_path / "styles.json").write_text(json.dumps({"rhymed": "I like rhymes."}))
    own = facts["settings"] | {"style": "rhymed", "style_file": str(tmp_path / "styles.json")}
    RunDirectory(runs[0]).write_json("run.json", facts | {"persona": "I like rhymes.", "settings": own})
    report = matrix_job(runs)
    assert report["tastes"] == ["short"] and "rhymed" in report["notes"][-1] and report["condition"] == {}
    assert "JUDGE_MODEL" in capsys.readouterr().out
    with FakeServer(verdict_by(len)) as judge:
        report = matrix_job(runs, judge_model="somebody", judge_url=judge.url)
        assert judge.bodies and all("I like rhymes." in body["messages"][0]["content"] for body in judge.bodies)
    assert report["tastes"] == ["rhymed", "short"]
    start, first, last = (cell for cell in report["cells"] if cell["taste"] == "rhymed")
    assert start["value"] is None and first["measure"] == "win rate" and last["answers"] > 0


@pytest.mark.slow
def test_tastes_of_the_same_name_are_columns_of_their_own(tmp_path):
    runs = make_runs(tmp_path, **dict(list(STYLES.items())[:2]))
    words = ["I like rhymes.", "I like limericks."]
    (tmp_path / "styles.json").write_text(json.dumps({"mine": words[1]}))  # edited between the runs
    for run, persona in zip(runs, words, strict=True):
        facts = RunDirectory(run).read_json("run.json")
        own = facts["settings"] | {"style": "mine", "style_file": str(tmp_path / "styles.json")}
        RunDirectory(run).write_json("run.json", facts | {"persona": persona, "settings": own})
    with FakeServer(verdict_by(len)) as judge:
        report = matrix_job(runs, judge_model="somebody", judge_url=judge.url, eval_n=4)
        asked = [body["messages"][0]["content"] for body in judge.bodies]
        assert all(any(persona in text for text in asked) for persona in words)
    assert report["tastes"] == ["mine (a)", "mine (b)"]
    assert [(cell["model"], cell["taste"]) for cell in report["cells"]] == [
        (model, taste) for taste in report["tastes"] for model in ("start", "after a", "after b")
    ]
    assert [(row["taste"], row["learned_after"]) for row in report["forgotten"]] == [("mine (a)", "after a")]


@pytest.mark.slow
def test_the_results_of_other_runs_are_moved_to_earlier(tmp_path):
    runs = make_runs(tmp_path, **STYLES)
    all_three = matrix_job(runs, eval_n=4)
    folder = runs[-1] / "eval" / "forgetting"
    (folder / "report.html").write_text("as it was")
    assert matrix_job(runs, eval_n=4)["cells"] == all_three["cells"]
    assert not (folder / "earlier").exists()
    assert len(matrix_job(runs[::2], eval_n=4)["runs"]) == 2
    (earlier,) = (folder / "earlier").iterdir()
    assert {path.name for path in earlier.iterdir()} == {*FILES, REPORT}
    assert json.loads((earlier / "forgetting.json").read_text("utf-8"))["runs"] == all_three["runs"]


@pytest.mark.slow
def test_adapters_one_after_another(tmp_path):
    runs = make_runs(tmp_path, **dict(list(STYLES.items())[:2]))
    for run, seed in zip(runs, (1, 2), strict=True):
        make_adapter(run / "checkpoint-9", seed)
        RunDirectory(run).mark_complete(9)
    report = matrix_job(runs, eval_n=4, condition=1)
    assert [row["checkpoint"] for row in report["runs"]] == [9, 9] and len(set(report["weights"].values())) == 3


def test_what_several_runs_cannot_do_is_said_before_a_model_is_loaded(tmp_path, capsys):
    runs = make_runs(tmp_path, **dict(list(STYLES.items())[:2]))

    def error(expect: int, **settings) -> str:
        assert matrix_job(runs, expect=expect, **settings) == {}
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "ANSWER_URL cannot be used with several runs" in error(2, answer_url="http://127.0.0.1:1/v1")
    assert "CKPTS cannot be used with several runs: the last good checkpoint" in error(2, ckpts="9")
    assert "BENCHMARKS cannot be used with several runs: none is run" in error(2, benchmarks="ifeval")
    for folder in runs[0].glob("checkpoint-*/complete.json"):
        folder.unlink()
    assert f"{runs[0]} cannot be one of several runs: it has no complete checkpoint" in error(1)
    (runs[0] / "run.json").unlink()
    assert "is not a run directory" in error(1)


def test_of_a_judge_that_is_not_asked_nothing_is_demanded(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    runs = make_runs(tmp_path, **dict(list(STYLES.items())[:2]))  # the oracle reads both tastes
    flags = arguments(runs[0], run_dir=f"{runs[0]} {runs[1]}", judge_model="claude-haiku")
    assert main(eval_tldr.JOB, [*flags, "--dry-run"]) == 0, capsys.readouterr().err


def test_settings_of_several_runs_are_the_last_ones_and_the_baseline_the_first_ones_start(tmp_path, capsys):
    runs = make_runs(tmp_path, **STYLES)
    settings = resolve(EvalSettings, ["--run-dir", f"{runs[0]} {runs[2]}"], job="eval")
    filled = fill(settings, eval_tldr.JOB)
    assert filled.baseline == str(MODEL_DIR) and filled.style == "formal"
    assert filled.output_dir == runs[2] / "eval" / "forgetting" and filled.run_dirs == [runs[0], runs[2]]
    # That the third did not start from the first one's result is said.
    assert main(eval_tldr.JOB, [*arguments(runs[0], run_dir=f"{runs[0]} {runs[2]}"), "--dry-run"]) == 0
    assert f"note: {runs[2]} started from {runs[1]}" in capsys.readouterr().out
