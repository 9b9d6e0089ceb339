"""Forms, contents and encodings joined at random: never a traceback, every row counted, no answer that nobody gave."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdpo.data import logs
from sdpo.data.forms import Piece, form_of
from sdpo.errors import SdpoError
from tests import preparation
from tests.conversations import claude, node, openai, tree
from tests.data.test_forms import CASES

# Words that no part of a form contains: what is written must be made of these.
TEXTS = st.sampled_from(["q1 is", "w2 was", "z3 has 😀", "v4 does", "k5\nin lines"])
HOLES = st.sampled_from(["", "   ", None])
TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.one_of(TEXTS, TEXTS, TEXTS, HOLES)), min_size=1, max_size=8
)


def as_parts(words):
    """Return messages as parts: a turn without text is a picture."""
    parts = [(role, [{"type": "text", "text": text}] if text else [{"type": "image_url"}]) for role, text in words]
    return openai(parts)


def as_thinker(words):
    """Return messages whose answers begin with thoughts, and consist of them where there is no text."""
    return openai([(role, f"<think>hm</think>{text or ''}" if role == "assistant" else text) for role, text in words])


def as_lines(words):
    return [{"conversationId": "c", "Role": role, "Content": text, "order": n} for n, (role, text) in enumerate(words)]


def as_tree(words):
    row = tree([(role, text or "") for role, text in words])
    row["mapping"] |= node("other", "root", "user", "an edited question that was not kept")
    return row


def as_sharegpt(words):
    return {
        "conversations": [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in words]
    }


FORMS = st.sampled_from([openai, as_parts, as_thinker, as_tree, claude, as_sharegpt, as_lines])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
OTHERS = st.lists(st.sampled_from(list(CASES.values())).map(lambda make: make()), max_size=2)


def answers_of(words):
    """Return the answers that were given: each run of one role, if no turn without text lies in it."""
    given_answers, run, last = [], [], None
    for role, text in [*words, ("end", "")]:
        if role != last:
            texts = [one.strip() for one in run if one and one.strip()]
            given_answers += ["\n\n".join(texts)] if last == "assistant" and texts else []
            run, last = [], role
        run.append(text)
    return given_answers


@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(FORMS, TURNS), min_size=1, max_size=3), OTHERS, ENCODINGS, st.booleans(), st.booleans())
def test_never_a_traceback_and_no_answer_that_nobody_gave(tmp_path, monkeypatch, made, others, encoding, lines, packed):
    rows, counted = [], 0
    for form, words in made:
        value = form(words)
        rows += value if isinstance(value, list) else [value]
    for value in others:
        rows += value if isinstance(value, list) else [value]
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows, indent=1)
    content = text.encode(encoding)
    path = tmp_path / "input.json"
    path.write_bytes(gzip.compress(content) if packed else content)
    written, tallies = [], []

    def count(source):
        nonlocal counted
        for row in _ROWS(source):
            counted += 1
            yield row

    monkeypatch.setattr(logs, "rows_of", count)
    monkeypatch.setattr(logs, "check_not_empty", lambda tally, *_: tallies.append(tally))
    monkeypatch.setattr(logs, "finish", lambda settings, outputs, report, lengths: written.append(_kept(outputs)))
    try:
        preparation.run_unchecked(path, tmp_path / "out")
    except SdpoError as error:
        assert "\n" not in str(error)
        return
    assert tallies[0].seen == counted
    known = {"Sencha.", "Assam.", "Bye."}
    for _, words in made:
        known |= set(answers_of(words))
    # Lines of several conversations share an id: their words are one conversation.
    together = [one for form, words in made if form is as_lines for one in words]
    for row in written[0]:
        assert row["completion"] in known or (together and row["conversation_id"].partition("~")[0] == "c"), row


_ROWS = logs.rows_of


def _kept(outputs):
    file = next(iter(outputs._files.values())).file
    file.flush()
    with open(f"/proc/self/fd/{file.fileno()}") as again:
        return [json.loads(line) for line in again]


ODD = st.sampled_from([None, True, -1, 5.5, "", "2024-13-45", [], {}, [[]], {"type": []}, [None], ["a", 1]])


def places(value, path=()):
    """Yield the path of every value inside a value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    """Return a copy of a value with another one at a path."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new) if path[1:] else new
    return copy


@pytest.mark.parametrize("name", CASES)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_an_odd_value_anywhere_in_a_row_of_any_form_is_read_or_a_reason(name, data):
    made = CASES[name]()
    rows = made if isinstance(made, list) else [made]
    row = data.draw(st.sampled_from([row for row in rows if isinstance(row, dict)]))
    row = replaced(row, data.draw(st.sampled_from(sorted(places(row), key=str))), data.draw(ODD))
    form = form_of(row)
    if form is None:
        return
    result = form.read(row, "row 1")
    if isinstance(result, Piece) and form.join is not None:
        json.dumps(result.value)
        list(form.join([result]))
