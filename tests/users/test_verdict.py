"""Which replies of a judge are a verdict: forms that cannot mean another one, and nothing else."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.users.verdict import read_verdict

READ = {
    '```json\n{"verdict": "A"}\n```': "A",
    "```\nVerdict: B\n```": "B",
    'Here is my verdict.\n\n```json\n{"verdict": "C"}\n```\n': "C",
    '{"verdict": "A", "reason": "Answer A has no emojis."}': "A",
    '{"reasoning": "shorter", "confidence": 0.9, "verdict": "b"}': "B",
    '{"Verdict": " a "}': "A",
    '{"verdict": "A", "verdict": "A"}': "A",
    "verdict: c": "C",
    "**Verdict:** B": "B",
    "### Final verdict: **A**": "A",
    "Answer A uses emojis, answer B does not.\nVerdict: B": "B",
    "B is shorter and clearer, so answer B is better.\n\n**Verdict: B**": "B",
    "A is friendly, but the user wants no emojis.\nverdict: b\n": "B",
    "Both have emojis. Neither fits better.\nVerdict: C": "C",
    'Answer A is longer.\n{"verdict": "B"}': "B",
    "Verdict: B\n\nVerdict: B": "B",
    "B gives a better answer and is a good choice.\nVerdict: B": "B",
    '{\n  "verdict": "A",\n  "scores": {"A": 9, "B": 3}\n}': "A",
    '{"verdict": "A", "reasons": ["Answer A is better.", "B is worse."]}': "A",
    "A is not better: it has emojis.\nVerdict: B": "B",
    "B is worse.\nVerdict: A": "A",
    "I prefer B, not A.\nVerdict: B": "B",
    "The answer a user wants is short, and B is.\nVerdict: B": "B",
}
UNREAD = [
    "verdict: a\nverdict: b",
    "My verdict is answer a.\nVerdict: B",
    "Verdict: A\nVerdict: B",
    'Verdict: A\n```json\n{"verdict": "B"}\n```',
    "Answer A is better.\nVerdict: B",
    "I prefer **B**.\nVerdict: A",
    "The better answer is B.\nVerdict: A",
    "A clearly fits better.\nVerdict: C",
    "B wins.\nVerdict: A",
    "I would go with (A).\nVerdict: B",
    "Neither has emojis.\nVerdict: A",
    "They are equally brief.\nVerdict: B",
    "Verdict: A\nBecause it is shorter.",
    '{"verdict": "A", "verdict": "B"}',
    '{"verdict": "A", "winner": "B"}',
    '{"verdict": "A or B"}',
    '{"verdict": ["A"]}',
    '[{"verdict": "A"}]',
    '{"choice": "A"}',
    '{"verdict": "A"} {"verdict": "B"}',
    "The request:\nx\n\nAnswer A:\ny\n\nAnswer B:\nVerdict: A",
    '```json\n{"verdict": "A"}\n```\nNo, B.',
    "verdict: both",
    "Verdict: AB",
    "Verdict: A, but B is close",
    "B Verdict: A",
    "A is not better.\nVerdict: A",
    "A doesn't fit better.\nVerdict: A",
    "I would not choose A.\nVerdict: A",
    "Not A.\nVerdict: A",
    "A is clearly worse.\nVerdict: A",
    "B is worse.\nVerdict: C",
    "Answer b wins.\nVerdict: A",
    "It's a draw.\nVerdict: A",
    '{"verdict": "A", "reason": "Answer B is better."}',
    '{"verdict": "A", "winner": "answer b"}',
    '{"verdict": "A", "final": {"verdict": "B"}}',
    '{"verdict": "A", "notes": ["fine", "I prefer B."]}',
    '{"verdict": "B", "B": "worse"}',
    '```json\n{"verdict": "A", "reason": "B beats A"}\n```',
]


@pytest.mark.parametrize(("text", "label"), READ.items())
def test_a_verdict_is_read_in_forms_that_cannot_mean_another_one(text, label):
    assert read_verdict(text) == label


@pytest.mark.parametrize("text", UNREAD)
def test_a_reply_that_says_more_or_less_than_one_verdict_is_none(text):
    assert read_verdict(text) is None


PREFERS = [
    "Answer {x} is better.", "I prefer {x}.", "{x} wins.", "{x} beats {y}.", "{x} > {y}", "The winner is answer {x}.",
    "I would go with ({x}).", "**{x}** fits much better.", "Verdict: {x}", "My choice: {x}",
    "Response {x} is superior.", "So answer {x} is the winner!", "{y} is worse.", "Answer {y} clearly loses.",
    "verdict: **{x}**, I think",
]  # fmt: skip
DENIES = ["{x} is not better.", "Answer {x} doesn't fit it better.", "I would not choose {x}.", "Not {x}."]
NEUTRAL = [
    "Both name the rule.",
    "A has 12 words, B has 80.",
    "The user wants a brief answer.",
    "A: short. B: long.",
    "",
]
LAYOUTS = [
    "{said}\nVerdict: {label}", "{said}\n\n**Verdict: {label}**", '{said}\n{{"verdict": "{label}"}}',
    '{said}\n```json\n{{"verdict": "{label}"}}\n```', '{{"verdict": "{label}", "reason": {quoted}}}',
    '{{"reasoning": {{"steps": [{quoted}]}}, "verdict": "{label}"}}',
]  # fmt: skip
neutral = st.lists(st.sampled_from(NEUTRAL), max_size=2)


@given(
    st.sampled_from(PREFERS + DENIES),
    st.sampled_from("AB"),
    neutral,
    neutral,
    st.sampled_from(LAYOUTS),
    st.sampled_from("ABC"),
)
def test_no_verdict_is_read_out_of_a_text_that_contradicts_it(sentence, x, before, after, layout, label):
    said = " ".join([*before, sentence.format(x=x, y="B" if x == "A" else "A"), *after])
    reply = layout.format(said=said, quoted=json.dumps(said), label=label)
    agrees = label == x if sentence in PREFERS else label != x
    assert read_verdict(reply) == (label if agrees else None)


@pytest.mark.parametrize(
    "row", ["*", '"', "[", "(", "`", "```", "\n", " ", "a", "A ", "{", "[{", '{"a":', "Answer ", "not "]
)
@pytest.mark.parametrize(
    ("begin", "end"), [("", ""), ("a\n", "\nVerdict: A"), ("```", "z"), ("A", "z"), ("better is ", "z")]
)
def test_a_long_row_of_one_sign_is_read_at_once(begin, row, end):
    started = time.process_time()
    assert read_verdict(begin + row * (20_000 // len(row)) + end) in (None, "A")
    assert time.process_time() - started < 2


spaces = st.text(st.sampled_from(" \n\t"), max_size=3)


@given(st.sampled_from("ABC"), spaces, spaces, st.sampled_from(["", "*", "**", '"', "`"]), st.sampled_from(["", "."]))
def test_a_verdict_is_read_with_marks_around_it(label, before, after, mark, stop):
    assert read_verdict(f"{before}{mark}Verdict: {label}{stop}{mark}{after}") == label
    assert read_verdict(f"{before}{json.dumps({'verdict': label})}{after}") == label
    assert read_verdict(f"{before}```\n{mark}verdict: {label.lower()}{stop}{mark}\n```{after}") == label


@given(st.text())
def test_any_other_text_is_not_a_verdict(text):
    if "verdict" not in text.lower():
        assert read_verdict(text) is None


words = st.lists(st.sampled_from(["Verdict:", "A", "B", "C", "Answer", "is", "better", "no", "both"]), max_size=6)


@given(words)
def test_a_verdict_with_more_text_in_its_line_is_not_a_verdict(chosen):
    text = " ".join(chosen)
    expected = chosen[1] if len(chosen) == 2 and chosen[0] == "Verdict:" and chosen[1] in "ABC" else None
    assert read_verdict(text) == expected


@given(words, st.sampled_from("ABC"))
def test_a_last_line_is_no_verdict_if_another_is_named_above_as_the_verdict(chosen, label):
    other = "ABC".replace(label, "")[0]
    assert read_verdict(f"{' '.join(chosen)}\nVerdict: {other}\nVerdict: {label}") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from("AbC"),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["verdict", "x"]), inner),
        max_leaves=4,
    )
)
def test_of_json_only_an_object_with_one_label_as_its_verdict_is_read(value):
    label = value.get("verdict") if isinstance(value, dict) else None
    label = label.strip().upper() if isinstance(label, str) else None
    other = value.get("x") if label else None
    contradicts = isinstance(other, str) and other.strip().upper() in set("ABC") - {label}
    expected = label if label in ("A", "B", "C") and not contradicts else None
    # What stands in `x` may be another verdict, or read as one.
    assert read_verdict(json.dumps(value)) in ({expected, None} if isinstance(other, list | dict) else {expected})
