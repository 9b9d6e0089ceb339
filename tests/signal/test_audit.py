"""The audit: its metrics and verdict on hand-worked numbers, invalid input, and a useless template."""

import json
import os
from math import log
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.audit import JOB
from sdpo.errors import RecordError, SettingError
from sdpo.method.scoring import Scores
from sdpo.runtime.launch import main
from sdpo.runtime.statistics import ratio_interval, wilson
from sdpo.settings.resolve import resolve
from sdpo.signal import audit
from sdpo.signal.annotator import Annotator
from sdpo.signal.audit_measures import nearness, position_kind, reading
from sdpo.signal.audit_sample import draw_sample, informative_rows
from sdpo.signal.loaded_model import LoadedModel
from sdpo.signal.verdict import CHANGES, GO, STOP, THRESHOLDS, compare, judge
from sdpo.text.hindsight import HINDSIGHT
from sdpo.text.records import interaction_lines
from sdpo.tiny import MODEL_DIR, language, logged, oracle
from tests.worlds import run_audit

pytestmark = pytest.mark.slow


def resolved_settings(*flags, tiny=True):
    arguments = [*(["--tiny"] if tiny else []), *flags]
    return resolve(JOB.settings, arguments, job=JOB.name, defaults=JOB.defaults, tiny=JOB.tiny, environment={})


# Statistics


def test_ratio_of_means_and_its_interval():
    value, (low, high) = ratio_interval([2, 4, 6], [1, 2, 3], "abc")
    assert value == low == high == 2.0  # every resample has this ratio
    value, (low, high) = ratio_interval([1, 0] * 50, [1] * 100, range(100))
    assert value == 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.02)


def test_identical_rows_of_one_conversation_count_once():
    rows = [1, 0] * 8
    one_each = ratio_interval(rows * 4, [1] * 64, range(64))[1]
    together = ratio_interval(rows * 4, [1] * 64, [index % 16 for index in range(64)])[1]
    assert together[1] - together[0] > 1.5 * (one_each[1] - one_each[0])


def test_the_interval_covers_the_true_ratio_about_95_times_in_100():
    rng, covered = Random(0), 0
    for draw_number in range(300):
        above = [rng.expovariate(1 / 3) for _ in range(60)]
        below = [rng.expovariate(1) for _ in range(60)]
        low, high = ratio_interval(above, below, range(60), seed=draw_number)[1]
        covered += low <= 3 <= high
    assert 0.88 <= covered / 300 <= 0.99


@pytest.mark.parametrize("rows", [([], [], []), ([1.0], [0.0], ["a"]), ([1.0], [1.0, 2.0], ["a"])])
def test_an_undefined_ratio_raises_value_error(rows):
    with pytest.raises(ValueError):
        ratio_interval(*rows)


# The verdict


def metrics_of(
    relevance=(30.0, 20.0, 40.0), size=0.3, wins=38, losses=2, template=0.03, carrying=0.6, surprise=0.0,
    out_of_reach=0.0, null_contrast=False, strength=1.0, **places,
):  # fmt: skip
    def ratio(value, low=None, high=None):
        return {"value": value, "interval": (value if low is None else low, value if high is None else high)}

    decided = wins + losses
    return {
        "relevance": ratio(*relevance),
        "specificity": ratio(3.0),
        "template_share": ratio(template),
        "telling": {"of": "complaint", "rows": 40, "size": size},
        "surprise": surprise,
        "out_of_reach": out_of_reach,
        "null_contrast": null_contrast,
        "contrast_strength": strength,
        "preference": {
            "judge": "oracle", "pairs": 40, "wins": wins, "losses": losses, "ties": 40 - decided,
            "share": wins / decided if decided else None, "interval": wilson(wins, decided - wins) or (0.0, 1.0),
        },
        "carrying": {"share": carrying, "threshold": 0.02},
        "kinds": {
            "complaint": {"rows": 40, "carrying": 1.0}, "thanks": {"rows": 20, "carrying": 0.05},
            "new topic": {"rows": 20, "carrying": 0.05},
        },
        "places": {"end": 0.1, "first": 0.1, "formatting": 0.1, "rest": 0.7} | places,
    }  # fmt: skip


def test_a_model_that_follows_hindsight_is_a_go():
    result = judge(metrics_of())
    assert (result.verdict, result.cause, result.changes) == (GO, None, [])


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"size": 0.02}, "model"),
        ({"wins": 20, "losses": 20}, "model"),
        ({"wins": 10, "losses": 30}, "model"),
        ({"wins": 5, "losses": 0}, "data"),
        ({"wins": 5, "losses": 0, "size": 0.02}, "model"),
        ({"wins": 2, "losses": 3}, "model"),
        ({"wins": 20, "losses": 20, "template": 0.98, "size": 10.0}, "template"),
        # Without any signal the model is the cause, although the template alone makes as small a signal.
        ({"template": 0.98, "size": 0.001}, "model"),
        # The answers are preferred, but they are no language.
        ({"surprise": 0.21}, "template"),
    ],
)
def test_a_missed_threshold_is_a_stop_with_its_cause(changed, cause):
    result = judge(metrics_of(**changed))
    assert (result.verdict, result.cause) == (STOP, cause)
    assert len(result.reasons) == 5


def test_a_rule_that_all_answers_fit_is_not_blamed_on_the_model():
    metrics = metrics_of(wins=0, losses=0)
    metrics["preference"]["judge"] = "rule"
    reasons = judge(metrics).reasons
    assert "the rule cannot tell what hindsight does" in reasons[-1] and judge(metrics).cause == "data"
    assert any("both answers fit STYLE, or neither does" in reason for reason in reasons[:-1])


@pytest.mark.parametrize(
    ("size", "name", "words"),
    [
        (0.3, "rule", "first that the users of DATA ask for STYLE"),
        (
            0.3,
            "oracle",
            "not to ones that the judge prefers: the model makes too little of them. Choose another MODEL.",
        ),
        (0.02, "rule", "does not use the hindsight context"),
    ],
)
def test_follow_ups_that_move_answers_elsewhere_are_not_called_unused(size, name, words):
    metrics = metrics_of(size=size, wins=10, losses=30)
    metrics["preference"]["judge"] = name
    assert words in judge(metrics).reasons[-1]


@pytest.mark.parametrize(("surprise", "words"), [(0.21, "0.21 nats less likely"), (-0.01, "0.01 nats more likely")])
def test_how_likely_the_answers_are_is_said_without_a_sign(surprise, words):
    assert any(words in reason for reason in judge(metrics_of(surprise=surprise)).reasons)


def test_data_without_complaints_is_the_cause():
    metrics = metrics_of(wins=20, losses=20, size=0.05)
    metrics["telling"]["of"], metrics["kinds"]["complaint"]["rows"] = "complaint or thanks or new topic", 2
    assert judge(metrics).cause == "data"


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"relevance": (3.0, 1.9, 5.0)}, "LEARN_FROM=complaints"),
        ({"template": 0.4}, "NULL_CONTRAST=1"),
        ({"carrying": 0.3}, "MIN_SIGNAL=0.02"),
        ({"first": 0.6}, "IGNORE_FIRST_K=2"),
        ({"end": 0.6}, "keep GUARD=stop"),
    ],
)
def test_a_change_names_the_trainer_setting(changed, setting):
    result = judge(metrics_of(**changed))
    assert result.verdict == CHANGES
    assert [change["setting"] for change in result.changes] == [setting]


def test_answers_that_the_model_never_gives_by_itself_need_the_forward_divergence():
    result = judge(metrics_of(out_of_reach=0.6))
    assert result.verdict == CHANGES
    assert [change["setting"] for change in result.changes] == ["OBJECTIVE=full", "DIRECTION=forward"]
    assert "60% of the answers" in result.changes[0]["why"]
    assert judge(metrics_of(out_of_reach=0.3)).verdict == GO
    strong = judge(metrics_of(out_of_reach=0.6, null_contrast=True, strength=6.0))
    assert strong.changes[2]["setting"] == "CONTRAST_STRENGTH=2"
    assert len(judge(metrics_of(out_of_reach=0.6, null_contrast=True, strength=2.0)).changes) == 2
    assert len(judge(metrics_of(out_of_reach=0.6, strength=6.0)).changes) == 2


def test_the_contrast_is_not_advised_where_it_is_set():
    result = judge(metrics_of(template=0.4, null_contrast=True))
    assert result.verdict == GO and any("from the contrast" in reason for reason in result.reasons)


def test_a_template_is_compared_with_others_on_the_same_model():
    verdicts = [
        ("a", "shipped", judge(metrics_of())),
        ("a", "custom.txt", judge(metrics_of(wins=20, losses=20))),
        ("b", "shipped", judge(metrics_of(wins=20, losses=20))),
    ]
    compare(verdicts)
    assert [result.cause for _, _, result in verdicts] == [None, "template", "model"]


@pytest.mark.parametrize(
    ("works", "setting"),
    [("shipped", "no HINDSIGHT_FILE"), ("system", "HINDSIGHT_TEMPLATE=system"), ("own.txt", "HINDSIGHT_FILE=own.txt")],
)
def test_a_template_that_works_is_named_with_its_setting(works, setting):
    verdicts = [("a", works, judge(metrics_of())), ("a", "other.txt", judge(metrics_of(wins=20, losses=20)))]
    compare(verdicts, "other.txt")
    assert [change["setting"] for change in verdicts[1][2].changes] == [setting]


@pytest.mark.parametrize(("works", "file"), [("shipped", None), ("own.txt", "own.txt")])
def test_what_is_set_already_is_not_advised(works, file):
    verdicts = [("a", works, judge(metrics_of())), ("a", "after", judge(metrics_of(wins=20, losses=20)))]
    compare(verdicts, file)
    assert verdicts[1][2].cause == "template" and verdicts[1][2].changes == []


def test_other_templates_are_advised_only_until_they_have_been_tried():
    alone = {"wins": 20, "losses": 20, "template": 0.98, "size": 10.0}
    one = [("a", "shipped", judge(metrics_of(**alone)))]
    compare(one)
    assert "TEMPLATES" in one[0][2].reasons[-1] and "HINDSIGHT_FILE" not in one[0][2].reasons[-1]
    several = [("a", name, judge(metrics_of(**alone))) for name in ("shipped", "after", "system")]
    compare(several)
    assert not any("TEMPLATES" in verdict.reasons[-1] for _, _, verdict in several)


# What the model can read


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ({"nats": 9.0, "frequencies": 5.0, "unknown": 0.0}, "no better than"),
        ({"nats": 2.0, "frequencies": 5.0, "unknown": 0.9}, "does not know 90%"),
    ],
)
def test_a_model_that_cannot_read_the_language_is_the_cause_and_no_template_is_blamed(reading, words):
    alone = {"wins": 20, "losses": 20, "template": 0.98, "size": 10.0}
    verdicts = [(name, "shipped", judge(metrics_of(**alone) | {"reading": reading})) for name in ("a", "b")]
    compare(verdicts)
    for _, _, verdict in verdicts:
        assert verdict.cause == "model" and words in verdict.reasons[-1] and "language" in verdict.reasons[-1]
        assert "TEMPLATE" not in " ".join(verdict.reasons) and not verdict.changes
    readable = {"nats": 2.0, "frequencies": 5.0, "unknown": 0.01}
    assert judge(metrics_of(**alone) | {"reading": readable}).cause == "template"


def test_reading_is_compared_with_the_tokens_own_frequencies():
    even = [[1, 2, 3, 4]] * 5  # each token a quarter: log((20 + 4) / 5)
    found = reading(even, [[-0.5] * 4] * 5, unknown=4)
    assert found == {"nats": 0.5, "frequencies": pytest.approx(log(24 / 5)), "unknown": 0.25}
    assert reading([[7], [8]], [[-1.0], [-3.0]], None) == {"nats": 2.0, "frequencies": log(4), "unknown": 0.0}


@pytest.mark.parametrize(
    ("answers", "reads"),
    [
        ([row.completion for row in logged.interactions(24, seed=3)], True),
        ([f"Dear reader, chapter {n} explains how the committee weighed {n * 7} proposals." for n in range(24)], False),
        ([f"第{n}章：委员会审查了{n * 7}项提案，并于次日公布结果。" for n in range(24)], False),
    ],
    ids=["its own", "English", "Chinese"],
)
def test_the_tiny_model_reads_its_own_language_alone(answers, reads):
    subject = LoadedModel.load(str(MODEL_DIR), "auto", 32)
    completions = [subject.completion(answer) for answer in answers]
    contexts = [subject.context([{"role": "user", "content": answer[:20]}]) for answer in answers]
    found = reading(completions, subject.logps(contexts, completions), subject.tokenizer.unk_token_id)
    assert (found["nats"] < found["frequencies"] and found["unknown"] < 0.2) == reads, found


def test_a_dry_run_notes_a_judge_that_does_not_respond_yet(capsys):
    given = ["--tiny", "--judge-model", "m", "--judge-url", "http://127.0.0.1:9/v1"]
    assert main(JOB, [*given, "--dry-run"]) == 0
    assert "note: No server responds at http://127.0.0.1:9/health" in capsys.readouterr().out
    assert main(JOB, given) == 3


# Metrics


class TwoContexts:
    """Scores three answers of two tokens as a model might: `bare` after the prompt alone, else `hindsight`."""

    def __init__(self, bare, hindsight):
        self.logps = {"bare": torch.tensor(bare).log(), "hindsight": torch.tensor(hindsight).log()}

    def context(self, prompt, follow_up=None, template=None):
        return "bare" if follow_up is None else "hindsight"

    def completion(self, text, finished):
        return [len(text), 0] if finished else [len(text)]

    def score(self, contexts, completions):
        mask_BT = torch.tensor([[1.0, float(len(row) == 2)] for row in completions])
        return Scores(self.logps[contexts[0]] * mask_BT, torch.full((3, 2), 1.0) * mask_BT, mask_BT)


def test_an_answer_is_out_of_reach_with_one_token_that_the_follow_up_alone_makes_likely():
    rows = logged.interactions(3, seed=1)
    bare = [[0.5, 0.00009], [0.00011, 0.5], [0.5, 0.00001]]
    hindsight = [[0.5, 0.1], [0.9, 0.9], [0.5, 0.9]]
    answers = [("a", True), ("bb", True), ("ccc", False)]  # the last has no second token
    found = nearness(TwoContexts(bare, hindsight), rows, HINDSIGHT, answers)
    assert found["out_of_reach"] == pytest.approx(1 / 3)
    # After hindsight every token is as likely as before or more.
    surprises = [-(log(0.5) + log(0.1)) / 2 - 1, -log(0.9) - 1, -log(0.5) - 1]
    assert found["surprise"] == pytest.approx(sum(surprises) / 3, abs=1e-5)
    rare = [[0.5, 0.00009], [0.00009, 0.5], [0.5, 0.5]]
    below = [[0.5, 0.099], [0.099, 0.9], [0.5, 0.9]]
    assert nearness(TwoContexts(rare, below), rows, HINDSIGHT, answers)["out_of_reach"] == 0


def test_position_kind_of_tokens():
    assert position_kind(0, "<|im_end|>", True) == "end"
    assert position_kind(1, "\n", False) == "first"
    assert [position_kind(5, piece, False) for piece in ("**", "\n\n", " -", " word", "😀", "", "3.")] == [
        "formatting", "formatting", "formatting", "rest", "rest", "rest", "rest",
    ]  # fmt: skip


def test_informative_rows_are_complaints_then_thanks_then_all():
    few = THRESHOLDS.rows - 1
    ids = [str(number) for number in range(30)]
    assert informative_rows(["complaint"] * 9 + ["thanks"] * 9, ids) == list(range(9))
    assert informative_rows(["complaint"] * few + ["thanks"] * 9, ids) == list(range(few + 9))
    assert informative_rows(["new topic"] * 3, ids) == [0, 1, 2]
    # The complaints of one conversation are hardly more than one.
    assert informative_rows(["complaint"] * 9 + ["thanks"] * 9, ["one"] * 9 + ids) == list(range(18))


def test_shuffled_follow_ups_come_from_other_conversations():
    rows = logged.interactions(40, seed=3)
    sample = draw_sample(rows, ["u"], seed=1, left_out={})
    assert all(
        shuffled != row.user_response and shuffled in {other.user_response for other in rows}
        for row, shuffled in zip(rows, sample.shuffled, strict=True)
    )
    assert sample.unrelated == ["u"] * 40
    assert draw_sample(rows, ["u"], 1, {}).shuffled == sample.shuffled != draw_sample(rows, ["u"], 2, {}).shuffled


@settings(deadline=None)
@given(st.integers(0, 2**20))
def test_departure_index_is_where_the_answer_departs_from_all_answers_in_the_wanted_style(seed):
    rng = Random(seed)
    post, style = language.sample_post(rng), language.sample_style(rng)
    answer = language.write_answer(rng, post, style)
    for axis in language.AXES:
        index = oracle.departure_index(answer, post.text, {axis: not getattr(style, axis)})
        if axis == "emoji":
            emoji = next((answer.index(symbol) for symbol in language.EMOJIS if symbol in answer), len(answer) + 1)
            assert index == emoji - 1  # the space before it
        else:
            assert len(language.PREFIX) <= index < len(answer)
        # An answer in the wanted style departs nowhere.
        assert oracle.departure_index(answer, post.text, {axis: getattr(style, axis)}) == len(answer)


def test_the_kind_of_a_follow_up_by_model_and_by_oracle(model, tokenizer, tmp_path):
    annotator = Annotator(resolved_settings("--model", str(MODEL_DIR), tiny=False), tmp_path)
    rows = logged.interactions(5, seed=4)
    kinds = annotator.kinds(rows, LoadedModel("tiny", model, tokenizer))
    assert len(kinds) == 5 and set(kinds) <= {"complaint", "thanks", "new topic"}
    oracle_kinds = Annotator(resolved_settings(), tmp_path).kinds(logged.interactions(200, seed=4), None)
    assert {kind: oracle_kinds.count(kind) > 20 for kind in logged.MIX} == dict.fromkeys(logged.MIX, True)


# Input that is refused before a model is loaded


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "./nowhere"], "MODEL=./nowhere"),
        (["--hindsight-file", "two.txt"], "two.txt"),
        (["--templates", "missing.txt"], "missing.txt"),
        (["--templates", "'open"], "TEMPLATES"),
        (["--judge-model", "claude-haiku-4-5"], "ANTHROPIC_API_KEY"),
        (["--judge-model", "./nowhere"], "JUDGE_MODEL=./nowhere"),
        (["--judge-model", "claude-unpriced", "--max-cost", "1"], "MAX_COST needs the price of claude-unpriced"),
        (
            ["--judge-model", "m", "--judge-url", "http://198.51.100.1/v1", "--max-cost", "1"],
            "MAX_COST needs the price of m, which is unknown. Set PRICE_FILE",
        ),
        (["--judge-model", "oracel"], "Did you mean oracle"),
        (["--judge-model", "rule"], "needs a STYLE"),
        (["--judge-model", "rule", "--style", "casul"], "Did you mean casual"),
        (["--style", "brief"], "STYLE is for JUDGE_MODEL=rule"),
        (["--contrast-strength", "4"], "CONTRAST_STRENGTH is for NULL_CONTRAST=1"),
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "broken.jsonl"], "broken.jsonl, line 1"),
    ],
)
def test_invalid_settings_and_data_are_refused_before_a_model_is_loaded(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("{follow_up} {follow_up}")
    (tmp_path / "broken.jsonl").write_text('{"id": "a"}\n')
    invalid = resolved_settings("--output-dir", str(tmp_path / "run"), *flags)
    with pytest.raises((SettingError, RecordError)) as caught:
        audit.check(invalid, JOB)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_oracle_judges_in_the_tiny_world_only(tmp_path):
    with pytest.raises(SettingError):
        audit.check(resolved_settings("--judge-model", "oracle", "--model", str(MODEL_DIR), tiny=False), JOB)


def test_too_few_conversations_are_refused(tmp_path):
    few = [row for row in logged.interactions(THRESHOLDS.rows - 1, seed=1)]
    (tmp_path / "few.jsonl").write_text("".join(interaction_lines(few)), "utf-8")
    too_few = resolved_settings("--data", str(tmp_path / "few.jsonl"), "--output-dir", str(tmp_path / "run"))
    with pytest.raises(RecordError):
        audit.run(too_few, JOB)
    assert not os.path.exists(tmp_path / "run")


def test_the_shipped_interactions_and_cases_match_their_generator(tmp_path):
    for path in logged.write_files(tmp_path):
        shipped = MODEL_DIR.parent / "data" / path.name
        assert path.read_text("utf-8") == shipped.read_text("utf-8")
    cases = json.loads((tmp_path / "cases.json").read_text("utf-8"))
    assert len(cases) == 24


# Templates and the shipped model

# A model that has never seen such text makes no use of the follow-up in it.
USELESS = "\n\n[Log] " + "7f3a 9c1d 22e8 b0b0 " * 12 + "{follow_up}" + " e41a 00c7" * 12


def test_a_useless_template_is_reported_as_the_cause(tmp_path):
    (tmp_path / "useless.txt").write_text(USELESS)
    flags = ["--model", str(MODEL_DIR), "--audit-n", "64", "--hindsight-file", str(tmp_path / "useless.txt")]
    (shipped, useless), code = run_audit(tmp_path / "run", *flags)
    assert shipped["verdict"] == "go" and code == 0
    assert (useless["verdict"], useless["cause"]) == ("stop", "template")
    written = json.loads((tmp_path / "run" / audit.RESULT).read_text("utf-8"))["templates"]
    assert [template["text"] for template in written.values()] == [HINDSIGHT.text, USELESS]
    assert {template["place"] for template in written.values()} == {HINDSIGHT.place}
    assert [change["setting"] for change in useless["changes"]] == ["no HINDSIGHT_FILE"]
    # The shipped model's signal follows complaints and peaks on the token that they are about.
    sizes, peaks = shipped["figures"]["telling"], shipped["figures"]["peaks"]
    assert sizes["unrelated"] < 0.1 * sizes["size"]
    assert peaks["of"] >= 20 and peaks["right"] >= 0.95 * peaks["of"]
