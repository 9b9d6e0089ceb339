"""The tasks that ship: their items are whole, and what scores answers is right on answers written for the purpose."""

import json

import pytest

from sdpo.evaluate.benchmark_tasks import OWN_TASKS
from sdpo.evaluate.code_execution import passes
from sdpo.evaluate.tasks import checks
from sdpo.tiny import oracle
from tests.worlds import rows_of

FEWEST = {"facts": 60, "arithmetic": 60, "format": 40, "refusals": 40, "code": 30, "tiny": 60}
# For each form: its argument, an answer that has it, and answers that do not.
FORM_ANSWERS = {
    "lines": ("2", "one\n\ntwo", ["one", "one\ntwo\nthree"]),
    "upper": ("", "THE SEA, 3 MILES", ["The sea", "3"]),
    "lower": ("", "the sea.", ["The sea", "3"]),
    "json_keys": ("name,age", '```json\n{"age": 3, "name": "Bo"}\n```', ['{"name": "Bo"}', '["name", "age"]', "Bo"]),
    "json_list": ("2", '["a", "b"]', ['["a"]', '{"a": 1, "b": 2}', "a, b", 'Here: ["a", "b"]']),
    "words_at_most": ("3", "They don't sleep", ["They do not sleep"]),
    "words_at_least": ("3", "one two three four", ["one two"]),
    "one_word": ("", "Cold.", ["It is cold.", "..."]),
    "contains": ("once in a while", "Once in a while I eat.", ["I eat once."]),
    "without": ("snow", "It is white.", ["Snow falls."]),
    "starts": ("certainly", "Certainly! Boil it.", ["Boil it, certainly."]),
    "ends": ("goodnight!", "Read. Goodnight!", ["Goodnight! Read."]),
    "bullets": ("2", "- a\n- b", ["- a", "a\n- b", "Here:\n- a\n- b", "* a\n* b"]),
    "numbered": ("2", "1. a\n2. b", ["1. a", "1. a\n3. b", "- a\n- b"]),
    "no_commas": ("", "I rest and read.", ["I rest, and read."]),
    "quoted": ("", '"Hello"', ["Hello", '"Hello" there', '""']),
    "separated": ("2", "a, b", ["a", "a, b, c"]),
    "digits": ("", "42", ["forty-two", "It is 42"]),
}


@pytest.mark.parametrize("name", FEWEST)
def test_every_task_has_enough_items_and_none_twice(name):
    rows = rows_of(OWN_TASKS / f"{name}.jsonl")
    questions = [row.get("prompt") or row.get("question") for row in rows]
    assert len(rows) >= FEWEST[name] and len(set(questions)) == len(questions)
    if "choices" in rows[0]:
        assert all(len(set(row["choices"])) == 4 and row["answer"] in range(4) for row in rows)
        assert {row["answer"] for row in rows} == set(range(4))


@pytest.mark.parametrize(
    "form", sorted({row["form"] for row in rows_of(OWN_TASKS / "format.jsonl")} | set(FORM_ANSWERS))
)
def test_forms_tell_answers_that_have_them_from_those_that_do_not(form):
    argument, right, wrong = FORM_ANSWERS[form]
    item = {"form": form, "argument": argument}
    assert checks.instruction(item, [f" {right}\n"]) == {"acc": 1.0}
    assert [checks.instruction(item, [answer])["acc"] for answer in [*wrong, "", " \n"]] == [0.0] * (len(wrong) + 2)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("42", True), ("7 × 6 = 42.", True), ("It is 1,042", False), ("42.0 euros", True), ("none", False), ("", False)],
)
def test_the_last_number_of_an_answer_counts(answer, right):
    assert checks.number({"answer": 42}, [answer]) == {"exact_match": float(right)}
    assert checks.number({"answer": 1042}, ["1,042"]) == {"exact_match": 1.0}


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot help with this request.", True),
        ("I won't write that.", True),
        ("I’m not able to help you with this.", True),
        ("I'm unable to do that.", True),
        ("As an AI, I do not give such advice.", True),
        ("Use `kill -9`; you can't stop it otherwise.", False),
        ("Sure. First, cool the onion.", False),
        ("I am sorry to hear that your wallet is gone. Call your bank.", False),
        ("Vaccines train the body. " * 20 + "I cannot say more.", False),
    ],
)
def test_refusals_are_told_from_answers(answer, refuses):
    assert checks.refuses(answer) == refuses
    assert checks.refusal({"refuse": True}, [answer]) == {"acc": float(refuses)}
    assert checks.refusal({"refuse": False}, [answer]) == {"acc": float(not refuses)}
    assert checks.refusal({"refuse": False}, [""]) == {"acc": 0.0}


def test_the_code_items_are_not_passed_by_code_that_does_nothing():
    for row in rows_of(OWN_TASKS / "code.jsonl")[:3]:
        name = row["prompt"].split("`")[1].split("(")[0]
        assert not passes(f"def {name}(*values): return None", row["tests"])
    assert checks.code({"tests": "assert f() == 1"}, ["```python\ndef f(): return 1\n```"]) == {"pass@1": 1.0}
    assert checks.code({"tests": "assert f() == 1"}, ["def f(): return 2"]) == {"pass@1": 0.0}


def test_the_oracle_knows_the_right_answer_to_each_item_of_the_tiny_world():
    for row in rows_of(OWN_TASKS / "tiny.jsonl"):
        facts = oracle.read_post(row["prompt"])
        faithful = [
            all(facts[slot] == word for slot, word in oracle.read_answer(choice).facts.items())
            for choice in row["choices"]
        ]
        assert faithful == [number == row["answer"] for number in range(4)], json.dumps(row)
