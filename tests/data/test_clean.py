"""Thoughts, placeholders and marks leave an answer; what was shown, and what an answer says about them, stays."""

import time

import pytest

from sdpo.data.clean import cleaned
from sdpo.data.conversation import FAILED, PLACEHOLDER, THOUGHTS

HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Robin.<|return|>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>\nhm\n</think>\n\nRobin.", "Robin."),
        ("<think>\n\n</think>\n\nRobin.", "Robin."),
        ("hm, a bird\n</think>\n\nRobin.", "Robin."),
        ("<thinking>hm</thinking>Robin.", "Robin."),
        ("<Think>a</Think><think>b</think>Robin.", "Robin."),
        ("[THINK]hm[/THINK]Robin.", "Robin."),
        ("◁think▷hm◁/think▷Robin.", "Robin."),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Robin.<|END_RESPONSE|>", "Robin."),
        ("<think>```\ncode\n```</think>Robin.", "Robin."),
        ("Robin.\n<think>\nanother?", "Robin."),
        ("Robin.<think>hm</think> Wren.", "Robin. Wren."),
        ('<details type="reasoning" done="true"><summary>Thought</summary>\n&gt; hm\n</details>\nRobin.', "Robin."),
        ("<details>\n<summary>Thought for 3 seconds</summary>\nhm\n</details>Robin.", "Robin."),
        (HARMONY, "Robin."),
        ("<antThinking>hm</antThinking>Robin.", "Robin."),
        ('<antArtifact identifier="p" type="text/html">\n<p>Hi</p></antArtifact>', "<p>Hi</p>"),
        ("A.\n```\nThis block is not supported on your current device yet.\n```\nB.", "A.\n\nB."),
        ('\ue200entity\ue202["people","Ada",0]\ue201 did \ue200cite\ue202turn0search3\ue201.', "Ada did."),
        ("\ue203So\ue204\ue200filecite\ue202turn0file1\ue201 it is", "So it is"),
        ("See \ue200url\ue202the page\ue202turn0search1\ue201.", "See the page."),
        ("Yes :contentReference[oaicite:0]{index=0} 【4†source】.", "Yes."),
        ("Yes 【4:0†a.pdf】, it is【31†L1-L4】.", "Yes, it is."),
        ("Yes citeturn0search0turn0news1.", "Yes."),
        ("[cite_start]Yes[cite: 1, 2].", "Yes."),
        ('Yes<grok:render card_id="1" type="x"><argument name="a">1</argument></grok:render>.', "Yes."),
        ("one [citation:3] two", "one two"),
    ],
)
def test_an_answer_is_what_was_shown(text, shown):
    assert cleaned(text) == (shown, False, "")
    assert cleaned(shown).text == shown


@pytest.mark.parametrize(
    "text",
    [
        "Put `<think>` before it.", "Models write <think> and then go on.", "The tag </think> ends a thought.",
        "```xml\n<think>a</think>\n```\nThat is one.", "if a <b> c", "<details><summary>More</summary>text</details>",
        "array[0] and [1]", "I think: yes.", "<thinker>x</thinker>", "Cite it as 【source】.",
    ],
)  # fmt: skip
def test_what_an_answer_talks_about_stays(text):
    assert cleaned(text) == (text, False, "")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("<think>cut off by the limit", THOUGHTS), ("<think>hm</think>", THOUGHTS), ("hm\n</think>", THOUGHTS),
        ("<|channel|>analysis<|message|>hm", THOUGHTS), ("[THINK]hm", THOUGHTS),
        ("```\nThis block is not supported on your current device yet.\n```", PLACEHOLDER),
        ("This block is not supported on your current device yet.", PLACEHOLDER),
        ("The server is busy. Please try again later.", FAILED),
    ],
)  # fmt: skip
def test_an_answer_that_is_nothing_else_is_none(text, missing):
    assert cleaned(text) == ("", False, missing)


def test_tool_calls_in_the_text_are_noted():
    assert cleaned('<details type="tool_calls" name="x"></details>\nSunny.').uses_tools
    assert cleaned("<|channel|>commentary to=functions.w <|constrain|>json<|message|>{}<|call|>").uses_tools


def test_blocks_that_are_not_closed_are_read_in_little_time():
    began = time.process_time()
    for text in ("<details " * 8000, "<details>" * 8000, "<details>" * 8000 + "</details> More."):
        assert cleaned(text).text == text.strip()
    assert time.process_time() - began < 2
