"""Each checker against answers labelled by hand, and what must hold of any text at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.english.checkers import CHECKERS, checker_of
from sdpo.english.emojis import emojis
from sdpo.english.markdown import count_words, has_word, read_markdown
from sdpo.english.own_words import asks_for_a_piece
from sdpo.english.prompts import prompts
from sdpo.english.styles import STYLES
from sdpo.errors import SettingError

LABELLED = Path(__file__).parent / "labelled"
# Pieces that answers are made of, put together at random: sooner or later each meets each.
PIECES = [
    "Soak the pan", "\n\n", "\n", "\r\n", "- ", "* ", "1. ", "2) ", "(a) ", "# ", "**", "*", "_", "`", "```", "|",
    "---", "| a | b |\n|---|---|\n", "I'm", "I", "me", "my", '"', "“", "”", "'", "!", "?", ".", ":", " ", "😀", "©",
    "1️⃣", "•", "Great question", "Let me know", "Dear Ana,\n", "Regards,\n", "> ", "\t", "    ", "日本語",
    "\u200d", "\ufe0f", "\x00",
]  # fmt: skip
texts = st.text(max_size=120) | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def labelled(style):
    return [json.loads(line) for line in (LABELLED / f"{style}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("style", STYLES)
def test_the_checker_agrees_with_every_label(style):
    rows = labelled(style)
    fits = sum(row["fits"] for row in rows)
    assert len(rows) >= 40 and 0.33 <= fits / len(rows) <= 0.67 and len({row["text"] for row in rows}) == len(rows)
    checker = CHECKERS[style]
    wrong = [(row, checker.reason(row["text"])) for row in rows if checker.fits(row["text"]) != row["fits"]]
    assert not wrong


@pytest.mark.parametrize("row", labelled("mixed"), ids=lambda row: row["prompt"][:30])
def test_whole_answers_fit_the_styles_that_a_reader_says(row):
    read = [style for style, checker in CHECKERS.items() if checker.fits(row["text"], row["prompt"])]
    assert read == row["fits"]


def test_every_style_has_a_checker_and_an_unknown_one_names_the_nearest():
    assert list(CHECKERS) == list(STYLES)
    with pytest.raises(SettingError, match="Did you mean brief"):
        checker_of("breif")


@given(texts, texts)
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_read(text, prompt):
    for checker in CHECKERS.values():
        reason = checker.reason(text, prompt)
        assert checker.fits(text, prompt) == (reason == "") and isinstance(reason, str)
    if not has_word(text):
        assert not any(checker.fits(text, prompt) for checker in CHECKERS.values())
    assert not (CHECKERS["no_lists"].fits(text) and CHECKERS["more_lists"].fits(text))
    assert not (CHECKERS["less_formatting"].fits(text) and CHECKERS["more_formatting"].fits(text))
    assert not (CHECKERS["no_punctuation"].fits(text) and CHECKERS["exclamation"].fits(text))
    assert not (CHECKERS["less_formatting"].fits(text) and CHECKERS["more_lists"].fits(text))


@given(texts, st.sampled_from("😀🎉👍❤☕🚀"))
@settings(max_examples=100, deadline=None)
def test_an_emoji_more_breaks_no_emojis_and_changes_no_count_of_words(text, emoji):
    assert not CHECKERS["no_emojis"].fits(f"{text} {emoji} ")
    assert count_words(f"{text} {emoji}") == count_words(text)


@given(
    st.lists(
        st.sampled_from(["soak", "scrub", "dry", "pan", "water", "don't", "well-known", "é"]), min_size=1, max_size=60
    )
)
@settings(max_examples=100, deadline=None)
def test_plain_words(words):
    text = " ".join(words)
    assert count_words(text) == len(words)
    assert CHECKERS["brief"].fits(text) == (len(words) <= 30)
    for style in ("no_lists", "no_emojis", "no_first_person", "less_formatting", "no_filler_followup"):
        assert CHECKERS[style].fits(text)
    assert CHECKERS["no_punctuation"].fits(text) == ("well-known" not in words)
    assert not CHECKERS["more_lists"].fits(text) and CHECKERS["more_lists"].fits(f"- {text}\n- {text}")
    assert CHECKERS["exclamation"].fits(f"{text}!") and not CHECKERS["exclamation"].fits(f"{text}.")
    assert CHECKERS["more_formatting"].fits(f"# {text}") and not CHECKERS["less_formatting"].fits(f"**{text}**")


@given(texts)
@settings(max_examples=200, deadline=None)
def test_line_ends_of_windows_change_nothing(text):
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    for checker in CHECKERS.values():
        assert checker.fits(plain.replace("\n", "\r\n")) == checker.fits(plain)


@given(st.sampled_from([row["text"] for style in STYLES for row in labelled(style)]), st.integers(0, 400))
@settings(max_examples=300, deadline=None)
def test_an_answer_cut_off_anywhere_can_be_read(text, place):
    for checker in CHECKERS.values():
        checker.reason(text[:place])


def test_who_speaks_depends_on_the_prompt():
    poem = "I saw the snow upon the mast,\nand I forgot my name."
    checker = CHECKERS["no_first_person"]
    assert not checker.fits(poem) and checker.fits(poem, "Write a short poem about snow.")
    assert not checker.fits(f"Here is what I wrote:\n\n{poem}", "Please write a poem about snow.")
    assert not checker.fits("I would sort it first.", "Write a Python function that finds the median.")
    assert not checker.fits("I'm sorry, but I cannot write that.", "Write a toast.")
    toast = "To Jonas, who never caught the big one. Are you all with me? Would you like to raise a glass?"
    assert not CHECKERS["no_filler_followup"].fits(toast)
    assert CHECKERS["no_filler_followup"].fits(toast, "Write a birthday toast for my brother.")
    assert not CHECKERS["no_filler_followup"].fits(f"{toast}\n\nLet me know if it is too long.", "Write a toast.")


def test_which_prompts_ask_for_a_piece():
    for prompt in prompts("train") + prompts("validation"):
        assert asks_for_a_piece(prompt.prompt) == (prompt.kind == "write"), prompt


@pytest.mark.parametrize(
    ("style", "text", "reason"),
    [
        ("brief", "word " * 31, "31 words"),
        ("brief", " \n", "no word"),
        ("no_lists", "- a\n- b", "a list"),
        ("no_emojis", "Yes 😀", "the emoji 😀"),
        ("no_first_person", "That's what I'd do.", "it says I'd"),
        ("less_formatting", "# Title", "a heading"),
        ("no_filler_followup", "Yes. Let me know!", "it ends with: Let me know!"),
        ("less_filler_praise", "Great question! Yes.", "it begins with: Great question"),
        ("no_punctuation", "Yes, no", "the mark ,"),
    ],
)
def test_reasons_name_what_violates(style, text, reason):
    assert CHECKERS[style].reason(text) == reason


def test_what_counts_as_an_emoji():
    assert emojis("👍🏽 ❤️ 🇫🇷 1️⃣ ☕ 👩‍💻") == ["👍🏽", "❤️", "🇫🇷", "1️⃣", "☕", "👩‍💻"]
    assert emojis("1 # * © ® ™ → ↔ ✓ ✔ ★ ♠ ❤︎ :)") == []


def test_what_is_read_in_markdown():
    found = read_markdown("# Title\n\n**bold** and *it* with `code`\n\n- one\n- two\n\n```\nx\n```\n\n|a|\n|-|\n|b|")
    assert (found.headings, found.bold, found.italic, found.fences, found.tables) == (1, 1, 1, 1, 1)
    assert [item for item, _ in found.items] == ["one", "two"]
    assert [block.kind for block in found.blocks] == [
        "heading", "paragraph", "paragraph", "paragraph", "code", "cell", "cell"
    ]  # fmt: skip


def test_long_and_deep_texts_take_no_time():
    for text in ("(" * 3000, "- " * 3000, "> " * 2000 + "x", "**a " * 2000, "1) " * 3000, "'a " * 3000, "a! " * 3000):
        for checker in CHECKERS.values():
            checker.reason(text + "word")
