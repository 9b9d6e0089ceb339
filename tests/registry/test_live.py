"""The live pointer: what it says, whom a canary answers, and what is no pointer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.errors import RunError
from sdpo.registry.live import Canary, Live, read_live, write_live

LIVE = Live("v0003", "/models/v0003", Canary("v0004", "/models/v0004", 0.25), 17.5, 6)


def test_without_a_pointer_the_base_model_answers(tmp_path):
    assert read_live(tmp_path) == Live() and read_live(tmp_path / "none") == Live()
    assert Live().answering("any") == (None, None)


def test_a_pointer_is_read_as_it_was_written(tmp_path):
    write_live(tmp_path, LIVE)
    assert read_live(tmp_path) == LIVE
    content = json.loads((tmp_path / "live.json").read_text())
    assert content["canary"] == {"version": "v0004", "model": "/models/v0004", "share": 0.25}
    assert [path.name for path in tmp_path.iterdir()] == ["live.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": "v1"}', '{"version": 1, "canary": 3}'])
def test_what_is_no_pointer_is_one_line(tmp_path, text):
    (tmp_path / "live.json").write_text(text)
    with pytest.raises(RunError, match="not a live pointer") as caught:
        read_live(tmp_path)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_a_conversation_stays_on_one_side(conversation):
    assert LIVE.answering(conversation) == LIVE.answering(conversation)
    assert LIVE.answering(conversation)[0] in ("v0003", "v0004")


def test_a_canary_answers_its_share_and_the_next_one_another_part():
    names = [f"conversation-{number}" for number in range(4000)]
    first = {name for name in names if LIVE.answering(name)[0] == "v0004"}
    assert 0.22 < len(first) / len(names) < 0.28
    other = Live("v0003", "a", Canary("v0005", "b", 0.25))
    second = {name for name in names if other.answering(name)[0] == "v0005"}
    assert 0.15 < len(first & second) / len(first) < 0.35  # as by chance
    none = Live("v0003", "a", Canary("v0005", "b", 0.0))
    assert not any(none.answering(name)[0] == "v0005" for name in names)
