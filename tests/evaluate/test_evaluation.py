"""The evaluation job on untrained checkpoints: what is compared, counted, stored and rejected."""

import json
import os
import re
import shutil

import pytest

from jobs import eval as eval_job
from jobs import eval_helpsteer, eval_tldr
from sdpo import settings
from sdpo.evaluate.results import FILES, REPORT, archive_earlier_results
from sdpo.evaluate.run_folders import newest_run
from sdpo.evaluate.trained_run import default_steps, read_run
from sdpo.runtime import launch
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.resolve import resolve
from sdpo.text.prompts import PERSONAS, SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR
from tests.evaluations import add_checkpoint, arguments, evaluate, make_run, read
from tests.servers import Answer, FakeServer, prompt_of
from tests.users.test_judge import TURN
from tests.worlds import rows_of

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def generations(monkeypatch):
    """The number of prompts in each batch that was generated."""
    from sdpo.evaluate import answers

    sizes, real = [], answers.generate

    def counting(model, tokenizer, prompts, *rest, **named):
        sizes.append(len(prompts))
        return real(model, tokenizer, prompts, *rest, **named)

    monkeypatch.setattr(answers, "generate", counting)
    return sizes


def verdict_by(better):
    """A judge behind HTTP that prefers the answer for which `better` is larger."""

    def script(body, number):
        _, first, second = TURN.match(prompt_of(body)).groups()
        one, other = better(first), better(second)
        return Answer(json.dumps({"verdict": "C" if one == other else "A" if one > other else "B"}))

    return script


def served(answers):
    """Models behind HTTP: name -> function from prompt to answer."""
    return lambda body, number: Answer(answers[body["model"]](prompt_of(body)))


def test_a_copy_of_the_baseline_ties_everywhere_and_no_judge_is_asked(run, capsys, generations):
    add_checkpoint(run, 3)
    with FakeServer() as judge:
        report = evaluate(run, judge_model="oracle somebody", judge_url=judge.url)
    assert judge.bodies == [] and sum(generations) == 16
    for row in report["rows"]:
        assert (row["wins"], row["losses"], row["ties"], row["same"]) == (0, 0, 16, 16)
        assert row["win_rate"] is row["wilson_low"] is row["controlled_rate"] is None and row["coverage"] == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if re.match(r"\s*3  ", line))
    assert line.split()[1] == "–"


def test_five_checkpoints_cost_six_passes_and_a_second_judge_no_generation(run, generations):
    for step in (3, 6, 9, 12, 15):
        add_checkpoint(run, step, noise=0.002 * step)
    report = evaluate(run, ckpts="3 6 9 12 15", eval_n=8, eval_batch_size=4)
    assert sum(generations) == 6 * 8 and sum(map(bool, report["generated"].values())) == 6
    generations.clear()
    with FakeServer(verdict_by(len)) as judge:
        report = evaluate(run, eval_n=8, eval_batch_size=4, judge_model="oracle somebody", judge_url=judge.url)
        requests = len(judge.bodies)
        assert generations == [] and not any(report["generated"].values())
        differing = {(row["checkpoint"], row["prompts"] - row["same"]) for row in report["rows"]}
        assert 0 < requests <= 2 * sum(number for _, number in differing)
        evaluate(run, eval_n=8, eval_batch_size=4, judge_model="oracle somebody", judge_url=judge.url)
        assert len(judge.bodies) == requests
    # A smaller EVAL_N uses a subset of the stored answers; a larger one generates only the new ones.
    evaluate(run, eval_n=4, eval_batch_size=4, ckpts="3")
    assert generations == []
    evaluate(run, eval_n=12, eval_batch_size=1, ckpts="3")
    assert sum(generations) == 2 * 4


def test_a_judge_of_which_nothing_can_be_read_ends_the_evaluation(run, capsys):
    add_checkpoint(run, 3, noise=0.01)
    with FakeServer(lambda body, number: Answer("Both are fine.")) as judge:
        evaluate(run, expect=1, eval_n=8, judge_model="somebody", judge_url=judge.url)
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "verdicts of the judge (somebody at" in line and "“Both are fine.”" in line and "JUDGE_MODEL" in line


def test_prompts_and_settings_are_those_of_the_run(run):
    add_checkpoint(run, 3)
    bodies = []

    def answer(body, number):
        bodies.append(body)
        return Answer("fine")

    with FakeServer(answer) as server:
        report = evaluate(run, answer_url=server.url, eval_n=4)
    assert {tuple(message["role"] for message in body["messages"]) for body in bodies} == {("system", "user")}
    assert {body["messages"][0]["content"] for body in bodies} == {SUMMARY_SYSTEM}
    assert not any("TL;DR:" in prompt_of(body) for body in bodies)
    assert {(body["max_tokens"], body["temperature"]) for body in bodies} == {(24, 1.0)}
    # The checkpoint has the same weights as the baseline, so its replies come from the cache.
    assert len(bodies) == 4 and {body["model"] for body in bodies} == {str(MODEL_DIR)}
    assert report["persona"] == PERSONAS["no_emojis"] and report["settings"]["style"] == "no_emojis"


def test_a_checkpoint_that_the_run_does_not_have_is_an_error_at_once(run, capsys):
    add_checkpoint(run, 3, noise=0.01)
    (add_checkpoint(run, 6) / "complete.json").unlink()
    for flags in ([], ["--dry-run"]):
        line = rejected(capsys, *arguments(run, ckpts="3 6 9"), *flags)
        assert line == (
            f"error: {run} has no complete checkpoint of step 6, 9. It has those of step 3; set CKPTS to some of these."
        )
    assert not (run / "eval").exists()


def test_a_dry_run_says_which_checkpoints_would_be_evaluated(run, capsys):
    for step in (3, 6, 9):
        add_checkpoint(run, step)
    for ckpts, names in (("9 3", "checkpoint-3, checkpoint-9"), ("all", "checkpoint-3, checkpoint-6, checkpoint-9")):
        assert launch.main(eval_tldr.JOB, [*arguments(run, ckpts=ckpts), "--dry-run"]) == 0
        assert f"{names} of {run} would be compared with {MODEL_DIR}.\n" in capsys.readouterr().out


def test_results_of_other_settings_are_archived_and_never_mixed(run, tmp_path):
    add_checkpoint(run, 3, noise=0.01)
    first = evaluate(run, eval_n=4)
    (run / "eval" / "eval.json").rename(tmp_path / "eval.json")
    (run / "eval" / "report.html").write_text("of another job")
    archive_earlier_results(RunDirectory(run / "eval"), settings.EvalSettings())
    assert (run / "eval" / "report.html").exists() and not (run / "eval" / "release.json").exists()
    repeated = evaluate(run, eval_n=4)  # as after a kill before the last file of a report
    shutil.move(tmp_path / "eval.json", run / "eval" / "eval.json")
    assert first["rows"] == repeated["rows"]
    other = evaluate(run, eval_n=8)
    assert {row["prompts"] for row in other["rows"]} == {8}
    (earlier,) = (run / "eval" / "earlier").iterdir()
    assert json.loads((earlier / "eval.json").read_text())["rows"] == first["rows"]
    assert {path.name for path in earlier.iterdir()} == {*FILES, REPORT}
    # Changed weights under the same name are answered again.
    before = rows_of(run / "eval" / "answers-0.jsonl")
    shutil.rmtree(run / "checkpoint-3")
    add_checkpoint(run, 3, noise=0.02)
    evaluate(run, eval_n=8)
    assert len(rows_of(run / "eval" / "answers-0.jsonl")) == len(before) + 8


def test_a_verbose_model_that_is_no_better_is_flagged(run, capsys):
    """The judge prefers the longer answer; the checkpoint's answers are often longer but never better."""
    add_checkpoint(run, 3, noise=0.01)

    def length(prompt, most):
        return "x" * (20 + sum(map(ord, prompt)) * most % 40)

    models = {
        str(MODEL_DIR): lambda prompt: length(prompt, 3),
        "checkpoint-3": lambda prompt: length(prompt, 7) + "y" * 12,
    }
    with FakeServer(served(models)) as server, FakeServer(verdict_by(len)) as judge:
        report = evaluate(
            run, eval_n=128, answer_url=server.url, judge_model="somebody", judge_url=judge.url, concurrency=8
        )
    (row,) = report["rows"]
    assert row["wilson_low"] > 0.5 and row["length_explains"] and row["length"] > row["baseline_length"]
    assert any("length" in warning for warning in report["warnings"]) and "length" in capsys.readouterr().out


def test_a_better_model_is_not_flagged_and_judges_are_compared(run):
    add_checkpoint(run, 3, noise=0.01)
    models = {
        str(MODEL_DIR): lambda prompt: f"bad {'x' * (sum(map(ord, prompt)) % 37)}",
        "checkpoint-3": lambda prompt: f"good {'x' * (sum(map(ord, prompt)) * 5 % 37)}",
    }

    def by_name(body, number):
        better = (lambda text: "good" in text) if body["model"] == "one" else len
        return verdict_by(better)(body, number)

    with FakeServer(served(models)) as server, FakeServer(by_name) as judge:
        report = evaluate(run, eval_n=64, answer_url=server.url, judge_model="one two", judge_url=judge.url)
    one, two = report["rows"]
    assert (one["wins"], one["losses"], one["win_rate"]) == (64, 0, 1.0) and not one["length_explains"]
    assert one["controlled_rate"] > 0.95 and one["wilson_low"] > 0.9 and two["losses"] > 10
    (pair,) = report["agreement"]
    assert pair["judges"] == ["one", "two"] and pair["pairs"] == 64
    assert pair["agreement"] == pytest.approx(two["wins"] / 64, abs=1e-6) and pair["kappa"] == 0


def test_verdicts_by_position_and_unreadable_ones_are_counted(run):
    add_checkpoint(run, 3, noise=0.01)
    models = {str(MODEL_DIR): lambda prompt: "one", "checkpoint-3": lambda prompt: "other " + prompt[-8:]}

    def script(body, number):
        return Answer("Verdict: A" if sum(map(ord, prompt_of(body).split("Answer A:")[0])) % 4 else "Both are fine")

    with FakeServer(served(models)) as server, FakeServer(script) as judge:
        report = evaluate(run, eval_n=32, answer_url=server.url, judge_model="somebody", judge_url=judge.url)
    (row,) = report["rows"]
    assert row["ties"] == 32 and 0 < row["unreadable"] < 32
    assert row["contradictory"] == pytest.approx((32 - row["unreadable"]) / 32, abs=1e-6)
    assert any("by position" in warning for warning in report["warnings"])


def test_max_cost_is_respected_and_no_reply_is_paid_for_twice(run, capsys, tmp_path):
    add_checkpoint(run, 3, noise=0.01)
    prices = tmp_path / "prices.json"
    prices.write_text('{"expensive": {"in": 1000, "out": 1000}}')
    models = {str(MODEL_DIR): lambda prompt: "one", "checkpoint-3": lambda prompt: "the other"}
    options = {"judge_model": "expensive", "eval_n": 16, "price_file": prices, "concurrency": 2}

    def script(body, number):
        return Answer("Verdict: A", tokens=(700, 10))

    with FakeServer(served(models)) as server, FakeServer(script) as judge:
        options |= {"answer_url": server.url, "judge_url": judge.url.replace("//", "//me:secret@")}
        evaluate(run, expect=5, max_cost=10, **options)
        printed = capsys.readouterr()
        paid = len(judge.bodies)
        assert 0 < paid < 16 and "MAX_COST=..." in printed.err and read(run) == {}
        assert f"JUDGE_URL={judge.url}" in printed.err and "secret" not in printed.err
        meter = json.loads((run / "eval" / "meter.json").read_text())
        assert meter["expensive"]["cost"] == pytest.approx(0.71 * paid)
        report = evaluate(run, **options)
    assert len(judge.bodies) == 32 and report["rows"][0]["ties"] == 16


def test_max_cost_counts_what_every_judge_has_cost_before(run, tmp_path):
    add_checkpoint(run, 3, noise=0.01)
    prices = tmp_path / "prices.json"
    prices.write_text('{"one": {"in": 1000, "out": 1000}, "two": {"in": 1000, "out": 1000}}')
    models = {str(MODEL_DIR): lambda prompt: "one", "checkpoint-3": lambda prompt: "the other"}
    with FakeServer(served(models)) as server, FakeServer(lambda *_: Answer("Verdict: A", tokens=(700, 10))) as judge:
        options = {"judge_model": "one two", "price_file": prices, "concurrency": 1}
        options |= {"answer_url": server.url, "judge_url": judge.url}
        evaluate(run, eval_n=8, **options)
        assert len(judge.bodies) == 2 * 16  # for $0.71 each
        # The first judge's own replies leave room for more, those of both do not.
        evaluate(run, expect=5, eval_n=12, max_cost=0.71 * 32 + 0.5, **options)
        assert len(judge.bodies) == 2 * 16
        evaluate(run, eval_n=12, max_cost=100, **options)
    assert len(judge.bodies) == 2 * 24


def test_two_processes_share_the_work_and_give_the_same_results(run, tmp_path):
    add_checkpoint(run, 3, noise=0.01)
    other = shutil.copytree(run, tmp_path / "other")
    small = {"judge_model": "oracle tiny", "eval_n": 8, "eval_batch_size": 2, "judge_batch_size": 2}
    evaluate(run, **small)
    evaluate(other, gpus=2, **small)
    assert (run / "eval" / "eval.csv").read_bytes() == (other / "eval" / "eval.csv").read_bytes()
    assert all(rows_of(other / "eval" / f"{name}-{rank}.jsonl") for name in ("answers", "verdicts") for rank in (0, 1))


# Notes and errors before anything starts


def rejected(capsys, *flags, job=eval_tldr.JOB) -> str:
    assert launch.main(job, [*flags, "--dry-run"]) in (1, 2, 3)
    error = capsys.readouterr().err.strip()
    assert error.startswith("error:") and "\n" not in error
    return error


def test_servers_that_do_not_respond_are_refused_and_in_a_dry_run_noted(run, capsys):
    add_checkpoint(run, 3)
    judge = {"judge_model": "m", "judge_url": "http://127.0.0.1:9/v1"}
    answers = {"answer_url": "http://127.0.0.1:8/v1"}
    for given, name, port in ((judge, "JUDGE_URL", 9), (answers, "ANSWER_URL", 8)):
        assert launch.main(eval_tldr.JOB, arguments(run, **given)) == 3
        error = capsys.readouterr().err
        assert error.startswith("error: No server responds") and name in error and f":{port}/" in error
    assert launch.main(eval_tldr.JOB, [*arguments(run, **judge, **answers), "--dry-run"]) == 0
    noted = capsys.readouterr().out
    assert all(f"note: No server responds at http://127.0.0.1:{port}/health" in noted for port in (8, 9))
    assert not (run / "eval").exists()


def test_differences_from_the_run_are_printed_before_anything_starts(run, capsys):
    add_checkpoint(run, 3)
    assert launch.main(eval_tldr.JOB, [*arguments(run), "--dry-run"]) == 0
    assert "note:" not in capsys.readouterr().out
    flags = arguments(run, style="casual", style_file=MODEL_DIR.parent / "styles.json", max_completion_tokens=12)
    assert launch.main(eval_helpsteer.JOB, [*flags, "--dry-run"]) == 0
    notes = "".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("note:"))
    for name in ("STYLE=casual", "no_emojis", "MAX_COMPLETION_TOKENS=12", "train-online-tldr"):
        assert name in notes
    assert not (run / "eval").exists()


def test_a_style_file_is_a_difference_when_its_styles_are_others_than_those_that_the_run_kept(tmp_path, capsys):
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"mine": "I like it brief."}))
    run = make_run(tmp_path / "run", style_file=str(given))
    add_checkpoint(run, 3)

    def notes(**settings) -> list[str]:
        assert launch.main(eval_tldr.JOB, [*arguments(run, **settings), "--dry-run"]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]

    assert notes() == []  # a run of before styles were kept
    shutil.copy(given, run / "styles.json")
    assert notes() == [] == notes(style_file=given)
    given.write_text(json.dumps({"mine": "I like it long."}))
    assert notes() == []
    assert notes(style_file=given) == [
        f"note: STYLE_FILE={given}, but the run was trained with {run / 'styles.json'}",
    ]
    given.unlink()
    assert notes() == []


def test_the_newest_run_is_named_where_none_is_given(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "sdpo-tldr-runs" / "first")
    add_checkpoint(run, 3)
    flags = ["--tiny", "--judge-model", "oracle", "--eval-n", "4", "--dry-run"]
    assert launch.main(eval_tldr.JOB, flags) == 0
    assert (
        f"note: RUN_DIR is not given, so this is the newest run: {run.relative_to(tmp_path)}" in capsys.readouterr().out
    )


def test_unusable_settings_give_a_one_line_error(run, capsys, tmp_path):
    assert "checkpoint" in rejected(capsys, *arguments(run))
    add_checkpoint(run, 6)
    assert "CKPTS" in rejected(capsys, *arguments(run, ckpts="three"))
    assert re.search(r"(?<![\w/-])6(?![\w/-])", rejected(capsys, *arguments(run, ckpts="3")))
    assert "BASELINE" in rejected(capsys, *arguments(run, baseline=tmp_path))
    assert "JUDGE_MODEL" in rejected(capsys, *arguments(run, judge_model=tmp_path))
    for wrong, right in (("rul", "rule"), ("orcale", "oracle")):
        assert f"JUDGE_MODEL={wrong} is not a judge. Did you mean {right}?" in rejected(
            capsys, *arguments(run, judge_model=wrong)
        )
    assert "ANTHROPIC_API_KEY" in rejected(capsys, *arguments(run, judge_model="claude-haiku"))
    given = arguments(run, judge_model="oracle", judge_url="http://127.0.0.1:9/v1")
    assert launch.main(eval_tldr.JOB, [*given, "--dry-run"]) == 0
    assert "note: JUDGE_URL is not used: no judge that is asked is a server's." in capsys.readouterr().out
    assert "PRICE_FILE" in rejected(
        capsys, *arguments(run, judge_model="m", judge_url="http://198.51.100.1/v1", max_cost=1)
    )
    assert "prompts.jsonl" in rejected(capsys, *arguments(run, val_jsonl=tmp_path / "prompts.jsonl"))
    assert "STYLE" in rejected(capsys, *arguments(run, style="poetry"))
    assert "run.json" in rejected(capsys, *arguments(tmp_path))
    assert "RUN_DIR" in rejected(capsys, "--run-dir", str(tmp_path / "none"))


def test_a_prompt_that_occurs_again_is_evaluated_once(run, capsys, tmp_path):
    add_checkpoint(run, 3, noise=0.046)
    posts = [f"My dog ate my shoe {number} times, and then my hat. I feel sad about it." for number in range(4)]
    rows = [{"id": str(number), "prompt": posts[number % 4]} for number in range(12)]
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = evaluate(run, data_path=tmp_path / "again.jsonl", eval_n=4)
    assert [row["prompts"] for row in report["rows"]] == [4]
    assert launch.main(eval_tldr.JOB, arguments(run, data_path=tmp_path / "again.jsonl", eval_n=5)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "EVAL_N=5, but" in line and "has only 4 different prompts (8 are repeated)" in line


def test_a_server_of_answers_that_lacks_a_checkpoint_is_refused_before_anything_is_loaded(run, capsys):
    add_checkpoint(run, 6)
    baseline = read_run(run).model

    def listing(*names):
        return Answer(raw=json.dumps({"data": [{"id": name, "owned_by": "vllm"} for name in names]}).encode())

    for names, missing in ((("checkpoint-6", "another"), baseline), ((baseline, "checkpoint-9"), "checkpoint-6")):
        with FakeServer(gets={"/health": Answer(raw=b"{}"), "/v1/models": listing(*names)}) as server:
            line = rejected(capsys, *arguments(run, answer_url=server.url))
        assert (
            f"has no model {missing}. It has" in line and "Serve each checkpoint under the name of its folder" in line
        )
    gets = {"/health": Answer(raw=b"{}"), "/v1/models": listing(baseline, "checkpoint-6")}
    with FakeServer(gets=gets) as server:
        assert evaluate(run, answer_url=server.url, eval_n=4)["rows"]


def test_a_run_without_a_style_needs_one_and_uses_the_prompts_of_the_job(tmp_path, capsys):
    run = make_run(tmp_path / "run", style=None, val_jsonl=None)
    started = json.loads((run / "run.json").read_text())
    for name in ("persona", "system_prompt", "prompt_suffix"):
        del started[name]
    (run / "run.json").write_text(json.dumps(started | {"job": "train-offline-wildchat"}))
    add_checkpoint(run, 200)
    assert "STYLE" in rejected(capsys, *arguments(run, judge_model="tiny"), job=eval_helpsteer.JOB)
    assert launch.main(eval_helpsteer.JOB, [*arguments(run, style="no_emojis"), "--dry-run"]) == 0


def test_eval_becomes_the_evaluation_job_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "sdpo-tldr-runs" / "first")
    add_checkpoint(run, 3)
    assert launch.main(eval_job.JOB, ["--tiny", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "\neval-tldr:" in shown and str(run.relative_to(tmp_path)) in shown
    started = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(started | {"job": "train-online-helpsteer"}))
    assert launch.main(eval_job.JOB, ["--tiny", "--dry-run"]) == 0
    assert "\neval-helpsteer:" in capsys.readouterr().out
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-3", "run.json"]


def test_the_defaults_are_the_published_settings():
    expected = {"ckpts": None, "eval_n": 256, "world_size": 4, "eval_temperature": 0.0, "baseline": None}
    for job, judge in ((eval_tldr.JOB, "Qwen/Qwen3-8B"), (eval_helpsteer.JOB, "claude-haiku-4-5-20251001")):
        report = resolve(job.settings, [], job=job.name, defaults=job.defaults, environment={})
        assert {name: getattr(report, name) for name in expected} == expected
        assert report.judges == [judge] and report.steps is None
    assert settings.EvalSettings(judge_model="a 'b c' a", ckpts="9,3 3").judges == ["a", "b c"]
    assert settings.EvalSettings(ckpts="9,3 3").steps == [3, 9] and settings.EvalSettings(ckpts="all").steps is None


@pytest.mark.parametrize(
    ("saved", "chosen"),
    [
        ([3, 6, 9, 12, 15], [3, 6, 9, 12, 15]),  # the published ones
        ([3, 6, 9, 12, 15, 16], [3, 6, 9, 12, 15]),
        ([3, 6, 9, 12, 15, 18], [6, 9, 12, 15, 18]),
        (range(3, 33, 3), [6, 12, 18, 24, 30]),
        ([200, 400, 600, 625], [200, 400, 600, 625]),
        (range(1, 8), [2, 3, 5, 6, 7]),
        ([10], [10]),
        ([], []),
    ],
)
def test_by_default_at_most_five_checkpoints_are_evaluated_the_last_one_too(saved, chosen):
    assert default_steps(list(saved)) == chosen


def test_a_dry_run_shows_the_checkpoints_that_are_evaluated_by_default(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    for step in range(20, 140, 20):
        (run / f"checkpoint-{step}").mkdir()
        RunDirectory(run).mark_complete(step)
    for given, shown in (([], "40 60 80 100 120 the run"), (["CKPTS=20"], "20 flag"), (["CKPTS=all"], "all flag")):
        assert launch.main(eval_tldr.JOB, [*arguments(run), *given, "--dry-run"]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert " ".join(next(row[1:] for row in rows if row[:1] == ["CKPTS"])) == shown


def test_the_newest_run_is_one_with_checkpoints(tmp_path):
    for number, (job, checkpoint) in enumerate([("tldr/old", 1), ("tldr/new", 1), ("signal-analysis/later", 0)]):
        folder = tmp_path / job
        folder.mkdir(parents=True)
        if checkpoint:
            (folder / "checkpoint-1").mkdir()
        (folder / "run.json").write_text("{}")
        os.utime(folder / "run.json", (number, number))
    assert newest_run(tmp_path) == tmp_path / "tldr" / "new"
    assert newest_run(tmp_path / "tldr") is None
