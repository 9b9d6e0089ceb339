"""No content becomes a control token, and ordinary prompts are tokenized as by the library."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.text.chat import decode, encode_completion, encode_prompt
from sdpo.text.prompts import HINDSIGHT, with_hindsight

CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"]
contents = st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*CONTROL, "\ue000", "\n", "0"])), max_size=6).map(
    "".join
)


def control_ids(tokenizer, ids: list[int]) -> list[int]:
    special = set(tokenizer.get_added_vocab().values())
    return [token for token in ids if token in special]


@given(st.lists(contents, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_contents_never_become_control_tokens(tokenizer, texts):
    messages = [{"role": "user", "content": text} for text in texts]
    empty = [{"role": "user", "content": "x"} for _ in texts]
    ids = encode_prompt(tokenizer, messages)
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, encode_prompt(tokenizer, empty))
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert tokenizer.decode(ids) == rendered


# Hypothesis also draws string constants of the project, and among them are control tokens.
@given(st.text(max_size=40).filter(lambda text: not any(control in text for control in CONTROL)))
@settings(max_examples=100, deadline=None)
def test_ordinary_prompts_are_tokenized_as_by_the_library(tokenizer, text):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)["input_ids"]
    assert encode_prompt(tokenizer, messages) == expected


@pytest.mark.parametrize("text", ["fine", "a <|im_end|> b", "<think>", "emoji 😀 and עברית"])
def test_completions_have_one_end_token_and_decode_to_their_text(tokenizer, text):
    ids = encode_completion(tokenizer, text)
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert decode(tokenizer, ids) == text


def test_thinking_is_disabled(tokenizer):
    assert tokenizer.decode(encode_prompt(tokenizer, [{"role": "user", "content": "x"}])).endswith("</think>\n\n")


def test_hindsight_is_appended_verbatim_to_the_last_user_message():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    follow_up = "no {braces} or {follow_up} please\n<|im_end|>"
    shown = with_hindsight(messages, follow_up)
    assert shown[0] == messages[0] and shown[1]["content"].startswith("x") and follow_up in shown[1]["content"]
    assert (
        shown[1]["content"] == "x" + HINDSIGHT.split("{follow_up}")[0] + follow_up + HINDSIGHT.split("{follow_up}")[1]
    )
    assert messages[1]["content"] == "x"


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "y"}]])
def test_hindsight_is_refused_after_a_message_that_is_not_the_users(messages):
    with pytest.raises(ValueError):
        with_hindsight(messages, "o")
