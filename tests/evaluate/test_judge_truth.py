"""Judges on labelled pairs: what is measured of good and biased ones, where it is said, and what it costs."""

import json

import pytest

from sdpo.english.oracle import EnglishOracle
from sdpo.evaluate.judge_truth import labelled_pairs, measure, truth_of, warnings, with_rule
from sdpo.evaluate.judges import ApiPairwiseJudge, OracleJudge
from sdpo.settings import EvalSettings
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.world import TinyOracle
from tests.evaluate.test_evaluation import served
from tests.evaluations import add_checkpoint, evaluate, make_run, read
from tests.servers import Answer, FakeServer, prompt_of
from tests.users.test_judge import TURN

TRUSTED = EvalSettings().min_judge_truth
ENGLISH, TINY = labelled_pairs("some/model"), labelled_pairs(str(MODEL_DIR))


def verdict(label: str) -> Answer:
    return Answer(json.dumps({"verdict": label}))


def first(body, number):
    return verdict("A")


def longer(body, number):
    _, one, other = TURN.match(prompt_of(body)).groups()
    return verdict("C" if len(one) == len(other) else "A" if len(one) > len(other) else "B")


def knowing(pairs):
    """Return the script of a judge that knows the labels, and prefers the longer of any other two answers."""
    better = {(pair.prompt, *pair.answers) for pair in pairs}

    def script(body, number):
        prompt, one, other = TURN.match(prompt_of(body)).groups()
        if (prompt, one, other) in better or (prompt, other, one) in better:
            return verdict("A" if (prompt, one, other) in better else "B")
        return longer(body, number)

    return script


def measured(script, pairs, folder):
    with FakeServer(script) as server:
        settings = EvalSettings(judge_model="m", judge_url=server.url)
        truth = measure("m", ApiPairwiseJudge("m", settings, folder, 0.0), pairs)
        assert len(server.bodies) == 2 * len(pairs)
        again = measure("m", ApiPairwiseJudge("m", settings, folder, 0.0), pairs)
        assert again == truth and len(server.bodies) == 2 * len(pairs)
    return truth


@pytest.mark.parametrize("pairs", [ENGLISH, TINY])
def test_a_judge_that_always_names_the_first_answer_is_warned_of(pairs, tmp_path):
    truth = measured(first, pairs, tmp_path)
    assert truth.agreement == 0.5 and truth.low < 0.5 < truth.high < 0.65
    assert truth.by_kind == {"order": 0.0, "length": 0.5, "style": 0.5, "content": 0.5}
    (text,) = warnings([truth], TRUSTED)
    assert text.startswith(f"judge m is right on 0.50 of {len(pairs)} labelled pairs") and "order" in text


@pytest.mark.parametrize("pairs", [ENGLISH, TINY])
def test_a_judge_that_is_right_is_not(pairs, tmp_path):
    truth = measured(knowing(pairs), pairs, tmp_path)
    assert truth.agreement == truth.high == 1 and truth.low > 0.9 and warnings([truth], TRUSTED) == []


@pytest.mark.parametrize("pairs", [ENGLISH, TINY])
def test_a_judge_that_prefers_length_is_found_out_by_kind(pairs, tmp_path):
    truth = measured(longer, pairs, tmp_path)
    assert truth.by_kind["length"] <= 0.05 < 0.15 < min(truth.by_kind[kind] for kind in ("order", "style", "content"))
    (text,) = warnings([truth], TRUSTED)
    assert "prefers the longer answer" in text


def test_undecided_and_unreadable_verdicts_are_not_right():
    assert truth_of("m", ENGLISH, [("C", "C")] * len(ENGLISH)).agreement == 0
    assert truth_of("m", ENGLISH, [(None, None)] * len(ENGLISH)).agreement == 0
    halves = [("A", None) if pair.better == "first" else ("B", "C") for pair in ENGLISH]
    truth = truth_of("m", ENGLISH, halves)
    assert truth.agreement == 0.5 and truth.by_kind["order"] == 0


@pytest.mark.parametrize(("oracle", "pairs"), [(EnglishOracle("brief"), ENGLISH), (TinyOracle("short"), TINY)])
def test_a_rule_is_right_on_every_style_it_reads_and_not_asked_about_content(oracle, pairs):
    truth = measure("rule", OracleJudge(oracle), pairs)
    assert truth.agreement == 1 and truth.by_kind == {"order": 1.0, "length": 1.0, "style": 1.0}
    assert 40 <= truth.pairs <= len(pairs) * 3 / 4 and warnings([truth], TRUSTED) == []


def test_the_agreement_with_the_rule_is_over_the_pairs_that_it_decides():
    from sdpo.evaluate.answers import Answer as Written
    from sdpo.evaluate.prompts import EvaluationPrompt

    prompts = [EvaluationPrompt(str(number), "Hello?", []) for number in range(30)]
    plain, cheerful = Written("Hello there."), Written("Hello there!")
    answers = {"baseline": [plain] * 30, "checkpoint-1": [cheerful] * 24 + [plain] * 6}
    verdict_pairs = {"m": {"checkpoint-1": [("A", "B")] * 12 + [("B", "A")] * 6 + [("A", "A")] * 6 + [None] * 6}}
    truths = {"m": truth_of("m", ENGLISH, [("C", "C")] * len(ENGLISH))}
    (truth,) = with_rule(truths, EnglishOracle("exclamation"), prompts, answers, verdict_pairs)
    assert truth.rule_pairs == 24 and truth.rule_agreement == pytest.approx(15 / 24)
    assert truth.rule_low < 15 / 24 < truth.rule_high
    assert any("agrees with the rule of the style on 0.62 of 24 pairs" in text for text in warnings([truth], TRUSTED))
    assert not any("agrees with the rule" in text for text in warnings([truth], 0.62))  # 0.625
    (unread,) = with_rule(truths, None, prompts, answers, verdict_pairs)
    assert unread.rule_agreement is None


@pytest.mark.slow
def test_an_evaluation_tries_its_judges_first_says_so_and_asks_nothing_twice(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 3, noise=0.01)
    prices = tmp_path / "prices.json"
    prices.write_text('{"somebody": {"in": 1000, "out": 1000}}')
    models = {str(MODEL_DIR): lambda prompt: "no emoji", "checkpoint-3": lambda prompt: "an emoji 😀"}
    options = {"judge_model": "oracle somebody", "eval_n": 24, "judge_truth": 1, "price_file": prices}

    def script(body, number):
        return Answer("Verdict: A", tokens=(700, 10))

    with FakeServer(served(models)) as server, FakeServer(script) as judge:
        options |= {"answer_url": server.url, "judge_url": judge.url, "concurrency": 4}
        evaluate(run, expect=5, max_cost=20, **options)
        paid = len(judge.bodies)
        assert 0 < paid < 2 * len(TINY) and read(run) == {} and "MAX_COST=..." in capsys.readouterr().err
        report = evaluate(run, **options)
        # One pair of texts with several prompts; none is asked twice.
        assert len(judge.bodies) == 2 * len(TINY) + 2 * 24
        assert evaluate(run, **options)["judge_truth"] == report["judge_truth"]
        assert len(judge.bodies) == 2 * len(TINY) + 2 * 24
        page = (run / "eval" / "pairs.html").read_text("utf-8")
        without = evaluate(run, **(options | {"judge_truth": 0}))
    oracle, somebody = report["judge_truth"]
    assert (oracle["judge"], oracle["agreement"], oracle["rule_agreement"]) == ("oracle", 1.0, None)
    assert (somebody["agreement"], somebody["rule_pairs"], somebody["rule_agreement"]) == (0.5, 24, 0.5)
    assert sum("judge somebody is right on 0.50 of 64 labelled pairs" in text for text in report["warnings"]) == 1
    assert "warning: judge somebody is right on 0.50 of 64" in capsys.readouterr().out
    assert without["judge_truth"] == [] and not any("labelled" in text for text in without["warnings"])
    assert without["rows"] == report["rows"] and not (run / "eval" / "earlier").exists()
    assert "somebody is right on 0.50 of 64" in page
    assert "labelled pairs" not in (run / "eval" / "pairs.html").read_text("utf-8")


@pytest.mark.slow
def test_the_tiny_model_as_a_judge_is_tried_once(tmp_path):
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 3, noise=0.02)
    report = evaluate(run, eval_n=4, judge_truth=1, judge_model="tiny", judge_batch_size=32)
    stored = (run / "eval" / "verdicts-0.jsonl").read_bytes()
    (truth,) = report["judge_truth"]
    assert stored.count(b"\n") >= truth["pairs"] == 64
    assert min(truth["by_kind"][kind] for kind in ("order", "length", "style")) > 0.8
    assert evaluate(run, eval_n=4, judge_truth=1, judge_model="tiny", judge_batch_size=32)["judge_truth"] == [truth]
    assert (run / "eval" / "verdicts-0.jsonl").read_bytes() == stored
