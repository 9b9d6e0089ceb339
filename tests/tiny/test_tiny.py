"""The oracle reads the language exactly, and the shipped model plays its roles."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.errors import SettingError
from sdpo.study.roles import RoleEvaluator
from sdpo.text.records import read_prompts
from sdpo.tiny import WORLD_DIR, language, oracle
from sdpo.tiny.language import AXES, Style
from sdpo.tiny.training_data import build_tokenizer

pytestmark = pytest.mark.slow

seeds = st.integers(0, 2**32)
wants = st.dictionaries(st.sampled_from(AXES), st.booleans(), min_size=1, max_size=3)


@given(seeds, st.booleans())
def test_the_oracle_reads_every_answer_as_it_was_written(seed, held):
    rng = Random(seed)
    post, style = language.sample_post(rng, held), language.sample_style(rng)
    answer = language.write_answer(rng, post, style)
    reading = oracle.read_answer(answer)
    assert reading.style == style and reading.valid
    assert reading.faithful(oracle.read_post(post.text)) and oracle.read_post(post.text) == post.facts
    # The axes are also read from a text that is not an answer of the language.
    broken = oracle.read_answer(answer.replace(":", "", 1))
    assert broken.style == style and not broken.valid


@given(seeds, wants, st.booleans())
def test_the_oracle_reads_every_follow_up_as_it_was_meant(seed, wanted, held):
    rng = Random(seed)
    assert oracle.read_follow_up(language.write_request(rng, wanted, held)) == oracle.FollowUp("request", wanted)
    assert oracle.read_follow_up(language.write_thanks(rng, held)).kind == "thanks"
    assert oracle.read_follow_up(language.write_unrelated(rng, held)).kind == "unrelated"


@given(st.text(max_size=200))
@settings(max_examples=300)
def test_the_oracle_accepts_any_text(text):
    assert not oracle.read_answer(text).valid and len(oracle.read_answer(text).style) == len(AXES)
    assert oracle.read_follow_up(text).kind in ("unreadable", "request", "thanks", "unrelated")
    assert oracle.read_post(text) == {}


@pytest.mark.parametrize(
    ("answer", "style", "valid"),
    [
        ("TL;DR: The dog chewed my phone.", Style(False, False, False), True),
        ("TL;DR: dog chewed my phone lol 😀", Style(True, True, False), True),
        ("TL;DR: The dog chewed my phone. 😀 😀", Style(True, False, False), False),
        ("The dog chewed my phone.", Style(False, False, False), False),
        ("TL;DR: The dog chewed my moon.", Style(False, False, False), False),
        ("", Style(False, False, False), False),
        ("lol lol lol lol lol lol lol lol lol lol lol lol lol", Style(False, True, True), False),
    ],
)
def test_answers_by_hand(answer, style, valid):
    reading = oracle.read_answer(answer)
    assert (reading.style, reading.valid) == (style, valid)


def test_verdicts_and_follow_ups_by_hand():
    plain, smiling = "TL;DR: The dog chewed my phone.", "TL;DR: dog chewed my phone lol 😀"
    assert oracle.verdict(plain, smiling, {"emoji": False}) == "A"
    assert oracle.verdict(smiling, plain, {"emoji": False}) == "B"
    assert oracle.verdict(plain, smiling, {"long": False}) == "C"
    assert oracle.react(smiling, {"emoji": False, "casual": True}).wanted == {"emoji": False}
    assert oracle.react(plain, {"emoji": False}).kind == "thanks"


def test_contradictory_requests_are_unreadable():
    assert oracle.read_follow_up("Add an emoji. Skip the emojis.").kind == "unreadable"


def test_the_error_for_an_unknown_style_suggests_the_nearest():
    with pytest.raises(SettingError, match="no_emojis"):
        oracle.wants_of("no_emoji")


def test_validation_posts_and_held_out_wordings_are_not_in_the_training_part():
    rng = Random(5)
    for row in read_prompts(WORLD_DIR / "data" / "validation.jsonl", ""):
        assert language.held_out(*oracle.read_post(row.prompt).values())
    for row in read_prompts(WORLD_DIR / "data" / "train.jsonl", ""):
        assert not language.held_out(*oracle.read_post(row.prompt).values())
    trained = {language.write_request(rng, {"emoji": False}) for _ in range(3000)}
    held = {language.write_request(rng, {"emoji": False}, held=True) for _ in range(3000)}
    assert len(held) > 20 and not trained & held


def test_the_shipped_tokenizer_is_that_of_the_build_script(tokenizer):
    made = build_tokenizer()
    assert made.get_vocab() == tokenizer.get_vocab() and made.chat_template == tokenizer.chat_template


@pytest.fixture(scope="module")
def evaluator():
    from sdpo.tiny import MODEL_DIR

    return RoleEvaluator(MODEL_DIR, answers=512)


def test_the_shipped_model_answers_and_ignores_unrelated_follow_ups(evaluator):
    rows = {name: value for name, value, _ in evaluator.answers()}
    assert rows["validity"] >= 0.97
    # At 512 answers the sampling noise of the difference of two shares is 0.03 (one standard deviation).
    assert all(abs(rows[f"unrelated: {axis} moves by"]) <= 0.05 + 2 * 0.031 for axis in AXES)
    assert all(0.35 < rows[f"share {axis}"] < 0.65 for axis in AXES)


def test_the_shipped_model_follows_hindsight(evaluator):
    # At 512 answers the sampling noise of a share of 0.95 is 0.0096 (one standard deviation); the table has 1,024.
    assert all(value >= 0.95 - 2 * 0.0096 for _, value, _ in evaluator.hindsight())


def test_the_shipped_model_plays_the_user(evaluator):
    rows = evaluator.user()
    assert sum(value * count for _, value, count in rows) / sum(count for *_, count in rows) >= 0.95


def test_the_shipped_model_judges(evaluator):
    rows = evaluator.judge()
    assert sum(value * count for _, value, count in rows) / sum(count for *_, count in rows) >= 0.9
