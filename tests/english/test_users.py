"""Users that need no model, and the oracle that reads what they and the policy write."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdpo.english.oracle import EnglishOracle, is_valid
from sdpo.english.prompts import prompts
from sdpo.english.styles import STYLES, complaints, praise, unrelated
from sdpo.english.users import StyleUser, UnrelatedUser
from sdpo.errors import SettingError
from sdpo.users.oracle import Oracle
from sdpo.users.styles import OwnStyle
from tests.commands import ROOT

SMILING, PLAIN = "Soak it overnight 😀", "Soak it overnight"
PROMPT = "How do I clean a pan?"


def test_it_complains_of_its_style_and_is_content_otherwise():
    user = StyleUser("no_emojis", seed=1)
    replies = [follow_up.text for follow_up in user.react([PROMPT] * 2, [SMILING, PLAIN])]
    assert replies[0] in complaints("no_emojis") and replies[1] in praise()
    assert [follow_up.text for follow_up in user.latest] == replies and user.round == 1
    assert all(follow_up.problem is None for follow_up in user.latest)
    held = StyleUser("no_emojis", seed=1, held_out=True).react([PROMPT] * 2, [SMILING, PLAIN])
    assert held[0].text in complaints("no_emojis", True) and held[1].text in praise(True)
    assert UnrelatedUser().react([PROMPT], [SMILING])[0].text in unrelated()
    assert UnrelatedUser(held_out=True).react([PROMPT], [SMILING])[0].text in unrelated(True)


@given(st.integers(0, 5), st.text(max_size=20), st.text(max_size=20))
def test_the_same_exchange_in_the_same_round_gets_the_same_words(number, prompt, completion):
    steady, busy = StyleUser("brief", 3), StyleUser("brief", 3)
    busy.react(["something"] * 3, ["else"] * 3)
    steady.round = busy.round = number
    expected = steady.react([prompt], [completion])
    assert busy.react(["first", prompt], ["one", completion])[1:] == expected


def test_rounds_seeds_and_exchanges_draw_differently():
    def drawn(seed, number, completion):
        user = StyleUser("no_emojis", seed)
        user.round = number
        return user.react([PROMPT], [completion])[0].text

    assert {drawn(0, number, SMILING) for number in range(200)} == set(complaints("no_emojis"))
    assert {drawn(seed, 0, SMILING) for seed in range(200)} == set(complaints("no_emojis"))
    assert {drawn(0, 0, f"{PLAIN} {number}") for number in range(300)} == set(praise())


def test_the_prompt_tells_who_speaks():
    poem = "I saw the snow upon the mast,\nand I forgot my name."
    replies = StyleUser("no_first_person").react(["Write a poem about snow.", "What did you see?"], [poem, poem])
    assert replies[0].text in praise() and replies[1].text in complaints("no_first_person")


def test_the_oracle_sums_up():
    oracle: Oracle = EnglishOracle("no_emojis")
    found = oracle.summarize([PROMPT] * 4, [SMILING, PLAIN, "", "on and on and on " * 20])
    assert found["adherence"] == 0.5 and found["validity"] == 0.5 and found["answers"] == 4
    assert found["mean_length"] == (3 + 3 + 0 + 100) / 4
    assert set(found["axes"]) == set(STYLES) - {"no_emojis"}
    assert found["axes"]["brief"] == 0.5 and found["axes"]["no_lists"] == 0.75 and found["axes"]["exclamation"] == 0
    assert EnglishOracle("brief").summarize([], [])["adherence"] == 0
    assert EnglishOracle.reads("any/model", "brief", None)
    assert EnglishOracle.reads("any/model", "brief", OwnStyle(STYLES["brief"]))
    assert not EnglishOracle.reads("any/model", "brief", OwnStyle("Another persona."))
    assert not EnglishOracle.reads("any/model", "poetic", None)


def test_degenerate_answers_are_not_valid():
    assert is_valid("one two three four " * 4) and not is_valid("one two three four " * 5)
    assert is_valid("yes") and not is_valid("...") and not is_valid("no " * 40)


def test_the_oracle_knows_contentment_and_compares():
    oracle = EnglishOracle("no_emojis")
    assert all(map(oracle.is_satisfied, praise() + praise(held_out=True)))
    others = [text for style in STYLES for text in complaints(style) + complaints(style, True)]
    assert not any(map(oracle.is_satisfied, [*others, *unrelated(), *unrelated(True), "", "Fine."]))
    assert oracle.verdict(PLAIN, SMILING) == "A" and oracle.verdict(SMILING, PLAIN) == "B"
    assert oracle.verdict(PLAIN, PLAIN) == oracle.verdict(SMILING, SMILING) == "C"


@pytest.mark.parametrize("made", [EnglishOracle, StyleUser])
def test_an_unknown_style_names_the_nearest(made):
    with pytest.raises(SettingError, match="Did you mean more_lists"):
        made("more_list")


def test_the_room_reacts_to_all_prompts_of_its_own():
    rows = [prompt.prompt for prompt in prompts("validation")]
    for style in STYLES:
        assert len(StyleUser(style).react(rows, [SMILING] * len(rows))) == len(rows)


def test_nothing_heavy_is_loaded():
    code = "import sys, sdpo.english.oracle, sdpo.english.users, sdpo.english.prompts\n"
    code += "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
