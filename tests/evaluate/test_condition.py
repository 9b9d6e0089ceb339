"""The condition of models: figures worked by hand, the distance that training records, and what is stored."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState

from jobs import eval_tldr
from sdpo.evaluate import condition, start_measures
from sdpo.evaluate.answers import Answer, Decoding, ServerAnswers
from sdpo.evaluate.condition import ConditionMeter, Subject, Taste, condition_of, general_kinds
from sdpo.evaluate.condition_report import DISTINCT, adherence_of, as_json, condition_section, condition_table
from sdpo.evaluate.evidence import Condition
from sdpo.evaluate.models import EvaluatedModel, ModelCache, checkpoint_model, fingerprint
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.start_measures import GENERAL, OwnAnswer, StartMeasures
from sdpo.evaluate.store import Store
from sdpo.llm import ReplyCache
from sdpo.method.teacher import Teacher
from sdpo.models.answer_quality import AnswerQuality
from sdpo.models.general_answers import Shift, tokenized
from sdpo.models.policy import load_model
from sdpo.settings import EvalSettings
from sdpo.text.hindsight import HINDSIGHT
from sdpo.text.prompts import GENERAL_PROMPTS, OPEN_PROMPTS, REHEARSAL_PROMPTS
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.data import posts
from sdpo.tiny.world import TinyOracle
from sdpo.train.start_model import StartModel
from tests.evaluate.test_answers import make_adapter
from tests.evaluate.test_evaluation import served
from tests.evaluations import add_checkpoint, evaluate, make_run
from tests.servers import FakeServer
from tests.worlds import rows_of

POSTS = tuple(row.prompt for row in posts(20, 1, True, "general"))
KINDS = {GENERAL: POSTS[:4], "explain": POSTS[4:]}  # of four answers at least a kind stands alone; half fit a style


class WorldWithGeneralPrompts(TinyOracle):
    """The tiny world's oracle, as if answers to some of its posts had no style."""

    general_prompts = KINDS[GENERAL]
    open_prompts = {"explain": KINDS["explain"]}  # noqa: RUF012  # as the protocol declares it


JOB = replace(eval_tldr.JOB, oracles=("tests.evaluate.test_condition:WorldWithGeneralPrompts",))


class FitsShort:
    """Stands for an oracle: one word fits."""

    def fits(self, completion, prompt=""):
        return len(completion.split()) == 1

    def summarize(self, prompts, completions):
        return {"validity": sum(text.endswith(".") for text in completions) / len(completions)}


# Figures by hand


def prompt(text: str) -> EvaluationPrompt:
    return EvaluationPrompt(text, text, [{"role": "user", "content": text}])


def subject(texts, oracle=None) -> Subject:
    return Subject(EvaluatedModel("m", "m"), "w", [Answer(text) for text in texts], Taste(oracle=oracle))


def test_the_figures_of_a_model_worked_by_hand():
    prompts = [prompt("How do I keep the bread fresh?")] * 4
    texts = [
        "Put the bread into a bag that is closed.",
        "Das Brot ist in einem Tuch noch frisch.",
        "I'm sorry, but I can't help with that.",
        "Bag",
    ]
    qualities = [AnswerQuality(-1.0, 0.5, 2.0, True), AnswerQuality(-3.0, 0.1, 1.0, False)]
    samples = [["a b c", "a b c ", "a b d", "x y z"], ["one", "two", "one", "one"]]
    own = [OwnAnswer(GENERAL, "p", "t", True), OwnAnswer(GENERAL, "q", "t", True)]
    own += [OwnAnswer("code", "r", "t", True)] * 4
    shifts = [Shift(1.0, -2.0, 2), Shift(2.0, -4.0, 4), *[Shift(3.0, -9.0, 2)] * 4]
    found = condition_of(prompts, subject(texts, FitsShort()), qualities, samples, own, shifts)
    assert (found.fluency, found.topic, found.leak) == (-2.0, 1.5, 0.5) and found.surprise == pytest.approx(0.3)
    # Over tokens, not over answers: (1 + 2) / (2 + 4), and only on the prompts that training measures.
    assert found.distance == 0.5 and found.log_probability == -1.0 and found.by_kind == {GENERAL: 0.5, "code": 1.5}
    assert found.diversity == (3 / 4 + 2 / 4) / 2
    assert found.distinct_phrases == 3 / 4  # abc, abd, xyz of four; answers of one word have none
    assert found.words == (9 + 8 + 8 + 1) / 4 and found.refusals == 1 / 4
    assert found.other_language == 1 / 3  # of the answers whose language is known
    assert found.fits == [False, False, False, True] and found.malformed == 1 / 4
    share, low, high = adherence_of(found)
    assert share == 0.25 and (low, high) == (pytest.approx(0.0456, abs=1e-4), pytest.approx(0.6994, abs=1e-4))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"code": 1}, {}),
        ({"code": 3, "plan": 1}, {"other kinds": (3 * 1.5 + 0.5) / 4}),
        ({"code": 4, "plan": 3}, {"code": 1.5}),
        ({"code": 4, "plan": 3, "facts": 1}, {"code": 1.5, "other kinds": 0.5}),
    ],
)
def test_a_kind_with_few_answers_does_not_stand_alone(answers, expected):
    """One answer of eleven tokens kept a healthy checkpoint: its kind had no other that fits the style."""
    own = [OwnAnswer(kind, "p", "t", True) for kind, count in answers.items() for _ in range(count)]
    shifts = [Shift(3.0 if row.kind == "code" else 1.0, -9.0, 2) for row in own]
    found = condition_of([prompt("Lima?")], subject(["Lima"]), [], [], own, shifts)
    assert found.by_kind == pytest.approx(expected)


def test_what_cannot_be_measured_is_none():
    found = condition_of([prompt("Lima?")], subject(["Lima"]), [], [], [], None)
    assert found == Condition(words=1.0, refusals=0.0) and adherence_of(found) is None
    assert as_json(found)["adherence"] is None and as_json(found)["by_kind"] == {}


def test_the_tables_show_the_figures_that_there_are():
    conditions = {
        "baseline": Condition(fluency=-0.5, distance=0.0, by_kind={GENERAL: 0.0, "code": 0.0}, fits=[True, False]),
        "checkpoint-3": Condition(fluency=-0.75, distance=-1e-9, by_kind={GENERAL: 0.1, "code": 0.25}),
    }
    text = condition_table(conditions)
    assert text.splitlines()[0].split() == ["model", "fluency", "distance", "fits", "95", "%"]
    assert "-0.75" in text and "-0.0000" not in text and "0.2500" in text and "[0.095, 0.905]" in text
    assert DISTINCT not in text and condition_table({"baseline": Condition(diversity=0.5)}).endswith(DISTINCT)
    page = condition_section(conditions, ["<not> measured"])
    assert "<td>-0.75</td>" in page and "&lt;not&gt; measured" in page and "<th>code</th>" in page
    assert not condition_section({}, [])


def test_general_prompts_have_kinds_and_are_no_one_elses():
    kinds = general_kinds(None)
    assert kinds == {GENERAL: GENERAL_PROMPTS, **OPEN_PROMPTS}
    assert len(kinds) >= 8 and all(len(texts) >= 6 for texts in kinds.values())
    everything = [text for texts in kinds.values() for text in texts]
    assert len(everything) == len(set(everything)) and not set(everything) & set(REHEARSAL_PROMPTS)
    from sdpo.english.prompts import SPLITS, prompts

    assert not {text.lower() for text in everything} & {
        row.prompt.lower() for split in SPLITS for row in prompts(split)
    }
    assert general_kinds(TinyOracle("no_emojis")) == {}
    assert general_kinds(WorldWithGeneralPrompts("no_emojis")) == KINDS


# By the start model


@pytest.fixture
def calls(monkeypatch):
    """How often models were loaded, made to generate, and made to score."""
    counts = dict.fromkeys(("load", "generate", "score"), 0)

    def count(module, name, kind):
        real = getattr(module, name)

        def counting(*given, **named):
            counts[kind] += 1
            return real(*given, **named)

        monkeypatch.setattr(module, name, counting)

    count(ModelCache, "load", "load")
    count(condition, "generate", "generate")
    count(start_measures, "sample_general_answers", "generate")
    count(start_measures, "score", "score")
    count(start_measures, "hidden_states", "score")
    count(start_measures, "compare_with_start", "score")
    return counts


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """Let the start model's answers be short, so that the tests are."""
    monkeypatch.setattr(start_measures, "GENERAL_TOKENS", 14)
    monkeypatch.setattr(start_measures, "OPEN_TOKENS", 16)


def meter_in(folder, batch_size=16) -> ConditionMeter:
    folder.mkdir(exist_ok=True)
    cache, store = ModelCache("fp32"), Store(folder, "condition")
    start = EvaluatedModel("start", str(MODEL_DIR))
    weights = fingerprint(start, Store(folder, "weights"))
    measures = StartMeasures(start, weights, store, cache, PartialState(cpu=True), batch_size, 0)
    return ConditionMeter(measures, store, cache, 6)


def subjects_of(folder, *models) -> dict[str, Subject]:
    known = Store(folder, "weights")
    answers = [Answer(f"TL;DR: answer {number}", True) for number in range(2)]
    return {model.name: Subject(model, fingerprint(model, known), answers, Taste("No emojis.")) for model in models}


PROMPTS = [prompt(text) for text in POSTS[:2]]
BASELINE = EvaluatedModel("baseline", str(MODEL_DIR))


def test_the_baseline_is_at_distance_zero_and_a_perturbed_checkpoint_is_not(tmp_path):
    run = make_run(tmp_path / "run")
    models = [checkpoint_model(step, add_checkpoint(run, step, noise), "") for step, noise in ((1, 0.01), (2, 0.05))]
    meter = meter_in(tmp_path / "eval")
    found = meter.conditions(subjects_of(tmp_path / "eval", BASELINE, *models), PROMPTS, KINDS, HINDSIGHT)
    base, near, far = found.values()
    assert base.distance == pytest.approx(0.0, abs=1e-6) and set(base.by_kind) == set(KINDS)
    assert 1e-3 < near.distance < far.distance and near.log_probability > far.log_probability
    assert all(near.by_kind[kind] < far.by_kind[kind] for kind in KINDS)
    assert far.distance != pytest.approx(far.by_kind["explain"])
    # The answers are the same, so what is said of them is too.
    assert base.fluency == near.fluency == far.fluency < 0 and base.surprise == near.surprise


def test_the_distance_is_the_one_that_training_records(tmp_path, tokenizer):
    run = make_run(tmp_path / "run")
    folder = add_checkpoint(run, 1, noise=0.02)
    meter = meter_in(tmp_path / "eval", batch_size=3)
    found = meter.conditions(subjects_of(tmp_path / "eval", checkpoint_model(1, folder, "")), PROMPTS, KINDS, HINDSIGHT)
    own = [row for row in meter.start.own_answers(KINDS) if row.kind == GENERAL]
    start = StartModel(Teacher("frozen", load_model(str(MODEL_DIR))[1]), tokenizer, 7, None, HINDSIGHT)
    start.general = tokenized(tokenizer, [(row.prompt, row.text, row.finished) for row in own])
    recorded = start.distance(load_model(str(folder))[1])
    assert recorded > 1e-3 and found["checkpoint-1"].distance == pytest.approx(recorded, rel=1e-5)


def test_nothing_is_measured_twice(tmp_path, calls):
    run = make_run(tmp_path / "run")
    copied, moved = add_checkpoint(run, 1), add_checkpoint(run, 2, noise=0.02)
    models = [BASELINE, *(checkpoint_model(step, path, "") for step, path in ((1, copied), (2, moved)))]
    subjects = subjects_of(tmp_path, *models)
    first = meter_in(tmp_path).conditions(subjects, PROMPTS, KINDS, HINDSIGHT)
    # The copy has the baseline's weights and answers: two models, and the start model's answers of two kinds.
    assert calls["generate"] == 2 + 2
    calls.update(dict.fromkeys(calls, 0))
    assert meter_in(tmp_path).conditions(subjects, PROMPTS, KINDS, HINDSIGHT) == first
    assert calls == {"load": 0, "generate": 0, "score": 0}
    # Other answers are scored again; the distance and the samples, which do not depend on them, are not.
    subjects["baseline"] = replace(subjects["baseline"], answers=[Answer("TL;DR: no", True)] * 2)
    again = meter_in(tmp_path).conditions(subjects, PROMPTS, KINDS, HINDSIGHT)
    assert calls["generate"] == 0 and calls["score"] > 0 and again["checkpoint-1"] == first["checkpoint-1"]
    assert again["baseline"].fluency != first["baseline"].fluency
    assert again["baseline"].distance == first["baseline"].distance


def test_an_interrupted_measurement_goes_on(tmp_path, calls, monkeypatch):
    run = make_run(tmp_path / "run")
    subjects = subjects_of(tmp_path, BASELINE, checkpoint_model(2, add_checkpoint(run, 2, noise=0.02), ""))
    real = StartMeasures.measure_shifts

    def interrupted(self, model, own):
        if model.name != "baseline":
            raise KeyboardInterrupt
        return real(self, model, own)

    with monkeypatch.context() as patched:
        patched.setattr(StartMeasures, "measure_shifts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            meter_in(tmp_path).conditions(subjects, PROMPTS, KINDS, HINDSIGHT)
    calls.update(dict.fromkeys(calls, 0))
    found = meter_in(tmp_path).conditions(subjects, PROMPTS, KINDS, HINDSIGHT)
    # Only the checkpoint's samples, which were lost with the process, and its distance.
    assert calls["generate"] <= 1 and found["checkpoint-2"].distance > 1e-3
    assert found == meter_in(tmp_path / "other").conditions(subjects, PROMPTS, KINDS, HINDSIGHT)


def test_answers_that_go_against_the_style_do_not_count_for_the_distance(tmp_path):
    meter, oracle = meter_in(tmp_path), TinyOracle("no_emojis")
    everything = meter.start.own_answers(KINDS)
    kept = [row for row in everything if oracle.fits(row.text, row.prompt)]
    assert 0 < len(kept) < len(everything)
    subjects = subjects_of(tmp_path, BASELINE)
    subjects["baseline"] = replace(subjects["baseline"], taste=Taste(oracle=oracle))
    meter.conditions(subjects, PROMPTS, KINDS, HINDSIGHT)
    assert meter.start.shift_key(subjects["baseline"].weights, kept) in meter.store
    assert meter.start.shift_key(subjects["baseline"].weights, everything) not in meter.store


def test_an_adapter_is_measured_as_the_model_that_it_makes(tmp_path):
    from peft import PeftModel

    adapter = make_adapter(tmp_path / "checkpoint-1", 1)
    whole = tmp_path / "merged"
    tokenizer, plain = load_model(str(MODEL_DIR))
    PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    models = [checkpoint_model(1, adapter, str(MODEL_DIR)), EvaluatedModel("merged", str(whole))]
    meter = meter_in(tmp_path / "eval")
    found = meter.conditions(subjects_of(tmp_path, BASELINE, *models), PROMPTS, KINDS, HINDSIGHT)
    assert found["checkpoint-1"].distance == pytest.approx(found["merged"].distance, rel=1e-3)
    assert found["checkpoint-1"].distance > 1e-5 > abs(found["baseline"].distance)
    # The start model and the adapter share one model; the merged one is loaded for itself.
    assert meter.model_cache.loads == 2


def test_a_model_with_another_vocabulary_has_no_distance(tmp_path):
    tokenizer, other = load_model(str(MODEL_DIR))
    other.resize_token_embeddings(len(tokenizer) + 8)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    model = EvaluatedModel("other", str(tmp_path / "other"))
    found = meter_in(tmp_path / "eval").conditions(subjects_of(tmp_path, model), PROMPTS, KINDS, HINDSIGHT)
    assert found["other"].distance is None and found["other"].by_kind == {} and found["other"].diversity > 0


# The evaluation


@pytest.mark.slow
def test_an_evaluation_reports_the_condition_and_a_second_one_computes_nothing(tmp_path, capsys, calls):
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 3)
    add_checkpoint(run, 6, noise=0.05)
    report = evaluate(run, condition=1, eval_n=8, job=JOB)
    base, same, harmed = (report["condition"][name] for name in ("baseline", "checkpoint-3", "checkpoint-6"))
    assert base == same and base["distance"] == pytest.approx(0, abs=1e-6) and base["read"] == 8
    assert harmed["distance"] > 0.1 and harmed["fluency"] < base["fluency"] - 0.5 and not report["condition_notes"]
    assert base["adherence_low"] < base["adherence"] < base["adherence_high"]
    out = capsys.readouterr().out
    assert "\ncondition\n" in out and "distance by kind of prompt" in out
    assert "<h2>Condition</h2>" in (run / "eval" / "pairs.html").read_text("utf-8")
    calls.update(dict.fromkeys(calls, 0))
    assert evaluate(run, condition=1, eval_n=8, job=JOB)["condition"] == report["condition"]
    assert calls == {"load": 0, "generate": 0, "score": 0}
    # In a world without general prompts there is no distance, and it is said.
    report = evaluate(run, condition=1, eval_n=8)
    assert report["condition"]["baseline"]["distance"] is None and "general prompts" in report["condition_notes"][0]
    report = evaluate(run, condition=0, eval_n=8)
    assert report["condition"] == {} and "condition\n" not in capsys.readouterr().out.partition("moved the")[2]


@pytest.mark.slow
def test_what_a_server_says_is_measured_and_weights_only_where_they_fit(tmp_path, monkeypatch):
    from sdpo.evaluate import condition_session

    run = make_run(tmp_path / "run")
    add_checkpoint(run, 3, noise=0.01)
    models = {
        str(MODEL_DIR): lambda text: f"TL;DR: {text[-9:]}",
        "checkpoint-3": lambda text: "I'm sorry, but I can't help with that.",
    }
    with FakeServer(served(models)) as server:
        report = evaluate(run, condition=1, eval_n=9, answer_url=server.url, job=JOB)
        assert report["condition"]["checkpoint-3"]["distance"] > 1e-3 and report["condition_notes"] == []
        requests = len(server.bodies)
        assert requests == 2 * (9 + 4 * 8) and report["generated"] == {"baseline": 9, "checkpoint-3": 9}
        monkeypatch.setattr(condition_session, "_not_loadable", lambda model, dtype: "it is too large")
        (run / "eval" / "condition-0.jsonl").unlink()
        report = evaluate(run, condition=1, eval_n=9, answer_url=server.url, job=JOB)
        assert len(server.bodies) == requests
    found = report["condition"]["checkpoint-3"]
    assert found["refusals"] == 1.0 and found["diversity"] == 0.25 and found["words"] == 8
    assert found["fluency"] is found["distance"] is None
    (note,) = report["condition_notes"]
    assert "it is too large" in note and "ANSWER_URL" in note


@pytest.mark.parametrize("problem", [None, "it is too large"])
def test_whether_a_served_model_is_loaded_is_the_main_processs_word(tmp_path, monkeypatch, problem):
    """Each process sees the free memory of its own GPU: if they disagreed, one would wait for the others forever."""
    from sdpo.evaluate import condition_session

    def broadcast(holder):
        holder[0] = problem  # what the main process has

    asked = []
    monkeypatch.setattr(condition_session, "broadcast_object_list", broadcast)
    own = None if problem else "another process has its memory"
    monkeypatch.setattr(condition_session, "_not_loadable", lambda model, dtype: own)
    state = SimpleNamespace(is_main_process=False, process_index=1, wait_for_everyone=lambda: None)
    session = SimpleNamespace(
        settings=EvalSettings(),
        folder=SimpleNamespace(path=tmp_path),
        state=state,
        model_cache=ModelCache("fp32"),
        source=ServerAnswers(ReplyCache(), state, Decoding(8, 0.0, 0), lambda model: None, 1, 1.0),
        weights_of=lambda models: asked.append(1) or dict.fromkeys(models, "weights"),
    )
    _, notes = condition_session.meter_of(session, EvaluatedModel("start", str(MODEL_DIR)))
    assert len(notes) == bool(problem) and len(asked) == (not problem)
    assert all(problem in note for note in notes)


def test_whether_a_served_model_can_be_loaded_here_too(tmp_path, monkeypatch):
    from sdpo.evaluate import condition_session

    model = EvaluatedModel("start", str(MODEL_DIR))
    assert condition_session._not_loadable(model, torch.float32) is None
    monkeypatch.setattr(condition_session.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "GB" in condition_session._not_loadable(model, torch.float32)
    (tmp_path / "empty").mkdir()
    absent = condition_session._not_loadable(EvaluatedModel("start", str(tmp_path / "empty")), torch.float32)
    assert "not on this machine" in absent
    absent = condition_session._not_loadable(EvaluatedModel("start", "nobody/no-such-model"), torch.float32)
    assert "not on this machine" in absent


def test_the_stored_figures_are_lines_of_json(tmp_path):
    meter_in(tmp_path).conditions(subjects_of(tmp_path, BASELINE), PROMPTS, KINDS, HINDSIGHT)
    rows = rows_of(tmp_path / "condition-0.jsonl")
    assert len(rows) == 2 + 1 + 1 + 1 and all(json.dumps(row["value"]) for row in rows)
