"""No content becomes a control token, and ordinary prompts are tokenized as by the library."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.text.chat import decode, encode_completion, encode_prompt

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
