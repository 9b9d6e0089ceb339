"""Thoughts are taken out of every reply: in all their marks, cut off, with the end mark alone, in own fields."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.llm import Client, OpenAIBackend, ReplyCache, Request, ScriptedBackend, has_thoughts, without_thoughts
from sdpo.users.satisfaction import read_reply
from tests.servers import Answer, FakeServer

MARKS = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ('<thought time="3">', "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ('<details type="reasoning" done="true">', "</details>"),
]
THOUGHT = "Okay, the user wants\n\nfewer emojis. Should I say so?"
REPLY = "Please leave the emojis out."


@pytest.mark.parametrize(("begin", "end"), MARKS)
def test_thoughts_in_all_marks_are_taken_out(begin, end):
    for text in (
        f"{begin}{THOUGHT}{end}\n\n{REPLY}",
        f"{begin}\n{end}{REPLY}\n",  # nothing thought
        f"{THOUGHT}{end}\n{REPLY}",  # the template wrote the begin mark
        f"{begin}{THOUGHT}{end}{begin}{THOUGHT}{end} {REPLY}",
        f"{begin}{THOUGHT}{begin}{THOUGHT}{end}{THOUGHT}{end}{REPLY}",
        f"{begin}```\n{THOUGHT}\n```{end}{REPLY}",  # the thought ends with code
        f"{begin}{THOUGHT}{end}{REPLY}{begin}{THOUGHT}",
        f"{REPLY}\n{begin}{THOUGHT}",  # cut off by the limit
    ):
        assert without_thoughts(text) == REPLY and has_thoughts(text)
    for text in (f"{begin}{THOUGHT}", begin, f"{begin}{THOUGHT}{end}", f"{THOUGHT}{end}\n"):
        assert without_thoughts(text) == ""


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{REPLY}", REPLY),
        (f"<|channel|>final<|message|>{REPLY}<|return|>", REPLY),
        (f"<|channel|>final <|constrain|>json<|message|>{REPLY}<|return|>", REPLY),
        (f"<|channel|>analysis<|message|>{THOUGHT}", ""),
        (f"<|channel|>commentary to=x<|message|>{THOUGHT}<|call|>", ""),
        (f"analysisThe user wants it short.assistantfinal{REPLY}", REPLY),
        (f"analysis{THOUGHT}", ""),
        (f"<think>{THOUGHT}</think><answer>{REPLY}</answer>", REPLY),
        (
            f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|><|begin_of_solution|>{REPLY}<|end_of_solution|>",
            REPLY,
        ),
        (f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{REPLY}<|END_RESPONSE|>", REPLY),
        (f"Thinking...\n{THOUGHT}\n...done thinking.\n\n{REPLY}", REPLY),
    ],
)
def test_channels_and_what_is_put_around_the_reply(text, reply):
    assert without_thoughts(text) == reply


@pytest.mark.parametrize(
    "text",
    [
        "I think it is fine.",
        "  Too long.\n",
        "Please do not write `<think>` or `</think>` in an answer.",
        "<b>bold</b> and a < b > c",
        "Analysis: it is too long.",
        "The analysis is fine, the final part is not.",
        "<answer>fine</answer>",
        "<details><summary>More</summary>text",
        '{"satisfied": true, "message": "Nice."}',
        "",
    ],
)
def test_replies_without_thoughts_are_not_changed(text):
    assert without_thoughts(text) == text and not has_thoughts(text)


pieces = st.sampled_from([*(mark for pair in MARKS for mark in pair), "<|channel|>", "<|message|>", "final", "a", "\n"])


@given(st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=16).map("".join))
def test_what_is_left_has_no_thoughts(text):
    assert not has_thoughts(without_thoughts(text))


plain = st.lists(
    st.sampled_from(["Please", "shorter", "a < b", "x > y", "[1]", "<b>", "I think", "reasoning:", "e = 5"])
)
thoughts = st.tuples(st.sampled_from(MARKS), plain.map(" ".join), st.sampled_from(["", *MARKS]))


@given(
    st.booleans(), st.lists(thoughts | plain, max_size=5), thoughts, st.booleans(), st.sampled_from(["\n", " ", "\n\n"])
)
def test_what_is_left_are_the_words_outside_all_thoughts(cut_begin, blocks, last, cut_end, gap):
    parts, expected = list[str](), list[str]()
    if cut_begin:  # the template wrote the begin mark
        parts += ["Okay, the user", last[0][1]]
    for block in blocks:
        if isinstance(block, list):
            parts.append(" ".join(block))
            expected += " ".join(block).split()
            continue
        (begin, end), inside, nested = block
        parts += [begin, inside, *(nested and (nested[0], "hm", nested[1], inside)), end]
    if cut_end:  # the limit ended it
        parts += [last[0][0], last[1]]
    text = gap.join(parts)
    assert without_thoughts(text).split() == expected
    assert has_thoughts(text) or text == gap.join(" ".join(block) for block in blocks)


@given(
    st.text(st.characters(exclude_characters="<[◁")).filter(
        lambda text: "nalysis" not in text and "hinking" not in text
    )
)
def test_a_text_without_marks_comes_back_as_it_is(text):
    assert without_thoughts(text) == text and not has_thoughts(text)


channels = st.tuples(
    st.sampled_from(["analysis", "commentary to=x", "final", "final <|constrain|>json"]), plain.map(" ".join)
)


@given(st.lists(channels, min_size=1), st.sampled_from(["<|end|>", "<|return|>", "<|call|>"]))
def test_of_a_reply_in_channels_the_final_ones_are_left(chosen, end):
    text = "<|start|>assistant".join(f"<|channel|>{name}<|message|>{body}{end}" for name, body in chosen)
    finals = "".join(body for name, body in chosen if name.startswith("final"))
    assert without_thoughts(text) == finals.strip()


@pytest.mark.parametrize(
    "row", ["<", "<think", "<a:", "<|channel|>", "a", "\n", "analysis", "assistant final", "`", "[THINK"]
)
@pytest.mark.parametrize("begin", ["", "<|channel|>", "<|channel|>a<|constrain|>", "analysis", "<think ", "<think>"])
def test_a_long_row_of_one_sign_is_read_at_once(begin, row):
    started = time.process_time()
    without_thoughts(begin + row * (20_000 // len(row)))
    assert time.process_time() - started < 2


def test_many_marks_take_no_longer_than_the_text_is_long():
    assert without_thoughts("<think>" * 200_000) == ""
    assert without_thoughts("</think>" * 200_000 + "x") == "x"


MESSAGES = [
    ({"content": f"<think>{THOUGHT}</think>\n\n{REPLY}"}, REPLY),
    ({"content": REPLY, "reasoning_content": THOUGHT}, REPLY),
    ({"content": None, "reasoning_content": THOUGHT}, ""),
    ({"content": "", "reasoning": THOUGHT}, ""),
    ({"content": None}, ""),
    ({"content": [{"type": "text", "text": "Please leave "}, {"type": "text", "text": "the emojis out."}]}, REPLY),
    ({"content": [{"type": "thinking", "thinking": [{"text": THOUGHT}]}, {"type": "text", "text": REPLY}]}, REPLY),
    ({"content": [REPLY]}, REPLY),
    ({"content": [{"type": "thinking", "thinking": THOUGHT}]}, ""),
    ({"content": None, "refusal": "I will not."}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("message", "text"), MESSAGES)
def test_a_message_is_its_text_and_no_thoughts(message, text, tmp_path):
    request = Request([{"role": "user", "content": "hi"}], 0.0, 16)
    with FakeServer(lambda body, number: Answer(message=message)) as server:
        for _ in range(2):  # the second time from the cache
            client = Client(OpenAIBackend(server.url, "m"), cache=ReplyCache(tmp_path / "replies.jsonl"))
            (reply,) = client.complete([request])
            assert reply.text == text
            if THOUGHT in str(message) and not text and not isinstance(message["content"], list):
                assert THOUGHT in reply.written
            assert reply.written == "I will not." or "refusal" not in message
        assert len(server.bodies) == 1


def test_a_cache_from_before_is_read_without_thoughts(tmp_path):
    path, request = tmp_path / "replies.jsonl", Request([{"role": "user", "content": "hi"}], 0.0, 16)
    backend = ScriptedBackend(lambda _: f"<think>{THOUGHT}</think>{REPLY}")
    Client(backend, cache=ReplyCache(path)).complete([request])
    assert "<think>" in json.loads(path.read_text())["text"]  # the record of what was paid for
    (reply,) = Client(backend, cache=ReplyCache(path)).complete([request])
    assert (reply.text, reply.written) == (REPLY, f"<think>{THOUGHT}</think>{REPLY}")


@pytest.mark.parametrize("inside", ['{"satisfied": false, "message": "Shorter."}', "Satisfied: no\nShorter."])
@pytest.mark.parametrize(("begin", "end"), [("<think>", "</think>"), ("", "</think>")])
def test_a_structured_reply_is_read_after_its_thoughts_are_taken_out(inside, begin, end):
    thought = 'I could write {"satisfied": true, "message": "x"} or Satisfied: yes'
    assert read_reply(without_thoughts(f"{begin}{thought}{end}\n{inside}")) == ("Shorter.", False)
