"""Logged interactions within the limits: what is truncated, what never is, and that no stale file is read."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.errors import RecordError
from sdpo.text.chat import encode_completion, encode_prompt, encode_text
from sdpo.text.hindsight import HINDSIGHT, HindsightTemplate, with_hindsight
from sdpo.text.records import Interaction, interaction_lines
from sdpo.train.offline import tokenized as tokenized_module
from sdpo.train.offline.tokenized import tokenized
from sdpo.train.offline.truncation import TruncationLimits, truncate

words = st.text(st.sampled_from("ab c\né😀العš<|im_end|>"), min_size=1, max_size=60).filter(str.strip)


@st.composite
def interactions(draw):
    """A prompt with an optional system message and one to five turns, a completion and a follow-up."""
    roles = ["user", "assistant"] * draw(st.integers(0, 2)) + ["user"]
    system = [{"role": "system", "content": draw(words)}] * draw(st.booleans())
    prompt = system + [{"role": role, "content": draw(words)} for role in roles]
    return Interaction("i", "c", 1, None, None, prompt, draw(words), draw(words))


def plain(**changes) -> Interaction:
    """An interaction with three turns of ten words each."""
    prompt = [
        {"role": "user", "content": "first " * 10},
        {"role": "assistant", "content": "second " * 10},
        {"role": "user", "content": "third " * 10 + "what now?"},
    ]
    return Interaction(
        "i", "c", 1, None, None, **{"prompt": prompt, "completion": "Yes.", "user_response": "Hm.", **changes}
    )


@given(interactions(), st.integers(40, 400), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_the_follow_up_and_the_end_of_the_prompt_are_never_cut(tokenizer, row, context, completion):
    truncated = truncate(tokenizer, row, TruncationLimits(context, completion, HINDSIGHT))
    complete = encode_prompt(tokenizer, with_hindsight(row.prompt, row.user_response))
    shown = HINDSIGHT.filled(row.user_response)
    if truncated is None:
        system = [message for message in row.prompt if message["role"] == "system"]
        least = encode_prompt(tokenizer, with_hindsight([*system, {"role": "user", "content": "a"}], row.user_response))
        # The last characters of the message may take a few more tokens than one letter.
        assert len(least) + 12 > context
        return
    assert len(truncated.hindsight) <= context and len(truncated.context) <= len(truncated.hindsight)
    text = tokenizer.decode(truncated.hindsight)
    assert text.endswith(tokenizer.decode(complete)[-len(shown) - 10 :])
    assert tokenizer.decode(truncated.context) == text.replace(shown, "", 1)
    assert (truncated.cut == "") == (len(complete) <= context)
    answer = encode_completion(tokenizer, row.completion)
    assert truncated.completion == answer[:completion] and truncated.completion_cut == (len(answer) > completion)


def test_an_answer_that_was_broken_off_has_no_end_token_and_counts_as_truncated(tokenizer):
    ended, broken = (
        truncate(tokenizer, plain(finished=finished), TruncationLimits(10_000, 100, HINDSIGHT))
        for finished in (True, False)
    )
    assert ended.completion == [*broken.completion, tokenizer.eos_token_id]
    assert (ended.completion_cut, broken.completion_cut) == (False, True)


def test_the_oldest_history_is_cut_first_and_its_answer_with_it(tokenizer):
    row = plain()
    complete = len(truncate(tokenizer, row, TruncationLimits(10_000, 10, HINDSIGHT)).hindsight)
    first, second = (len(encode_text(tokenizer, message["content"])) for message in row.prompt[:2])
    shorter = truncate(tokenizer, row, TruncationLimits(complete - 2, 10, HINDSIGHT))
    text = tokenizer.decode(shorter.context)
    assert shorter.cut == "history" and 0 < text.count("first") < 10 and text.count("second") == 10
    without_first = truncate(tokenizer, row, TruncationLimits(complete - first - 2, 10, HINDSIGHT))
    text = tokenizer.decode(without_first.context)
    assert without_first.cut == "history" and "first" not in text and "second" not in text and text.count("third") == 10
    cut = truncate(tokenizer, row, TruncationLimits(complete - first - second - 20, 10, HINDSIGHT))
    text = tokenizer.decode(cut.context)
    assert cut.cut == "prompt" and 0 < text.count("third") < 10 and "what now?" in text


def test_an_interaction_with_a_too_long_follow_up_is_dropped(tokenizer):
    assert truncate(tokenizer, plain(user_response="no " * 300), TruncationLimits(200, 10, HINDSIGHT)) is None


def _write(path, rows):
    path.write_text("".join(interaction_lines(rows)), "utf-8")
    return path


def test_the_tokenized_file_is_written_once_for_the_same_inputs(tokenizer, tmp_path, monkeypatch):
    path = _write(tmp_path / "logs.jsonl", [plain()])
    written = []
    write = tokenized_module._write
    monkeypatch.setattr(tokenized_module, "_write", lambda *given: (written.append(given[0]), write(*given)))
    limits = TruncationLimits(200, 20, HINDSIGHT)
    first = tokenized(path, "make it", tokenizer, limits, tmp_path / "run")
    again = tokenized(path, "make it", tokenizer, limits, tmp_path / "run")
    assert len(written) == 1 and first[0] == again[0]
    assert first[0]["completion"] == encode_completion(tokenizer, "Yes.") and first[0]["fits"]
    tokenized(path, "make it", tokenizer, TruncationLimits(199, 20, HINDSIGHT), tmp_path / "run")
    tokenized(
        path, "make it", tokenizer, TruncationLimits(200, 20, HindsightTemplate(HINDSIGHT.text + " ")), tmp_path / "run"
    )
    _write(path, [plain(completion="No.")])
    changed = tokenized(path, "make it", tokenizer, limits, tmp_path / "run")
    assert len(written) == 4 and changed[0]["completion"] == encode_completion(tokenizer, "No.")


def test_a_malformed_data_file_leaves_no_tokenized_file(tokenizer, tmp_path):
    path = _write(tmp_path / "logs.jsonl", [plain()])
    path.write_text(path.read_text("utf-8") + json.dumps({"id": "j"}) + "\n", "utf-8")
    with pytest.raises(RecordError, match="line 2"):
        tokenized(path, "make it", tokenizer, TruncationLimits(200, 20, HINDSIGHT), tmp_path / "run")
    assert not list((tmp_path / tokenized_module.FOLDER).iterdir())


def test_the_run_directory_has_the_tokenized_file_if_the_data_folder_is_read_only(tokenizer, tmp_path, monkeypatch):
    path = _write(tmp_path / "logs.jsonl", [plain()])
    (tmp_path / tokenized_module.FOLDER).write_text("a file instead of the folder")
    rows = tokenized(path, "make it", tokenizer, TruncationLimits(200, 20, HINDSIGHT), tmp_path / "run")
    assert len(rows) == 1 and list((tmp_path / "run" / tokenized_module.FOLDER).glob("*.arrow"))


def test_rows_that_are_too_long_are_marked(tokenizer, tmp_path):
    path = _write(tmp_path / "logs.jsonl", [plain(user_response="no " * 300)])
    rows = tokenized(path, "make it", tokenizer, TruncationLimits(200, 20, HINDSIGHT), tmp_path / "run")
    assert rows[0]["id"] == "i" and not rows[0]["fits"]
