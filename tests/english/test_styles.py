"""What users say: enough wordings, a third held out, and none that means another style."""

import itertools
import re

import pytest

from sdpo.english.styles import STYLES, check_style, complaints, praise, unrelated
from sdpo.errors import SettingError
from sdpo.text.prompts import PERSONAS

ONLY_IN = {  # words that name a style's subject beyond doubt
    r"\blists?\b|\bbullets?\b|bulleted|\bnumbered\b": {"no_lists", "more_lists"},
    r"emoji|smiley": {"no_emojis"},
    r"exclamation|enthusias|excit": {"exclamation"},
    r"first person|impersonal": {"no_first_person"},
    r"\bbold\b|heading|formatt|markup|markdown": {"less_formatting", "more_formatting"},
    r"let me know|closing|at the end": {"no_filler_followup"},
    r"prais|compliment|flatter|good question|great question": {"less_filler_praise"},
    r"punctuation|comma|full stop": {"no_punctuation"},
    r"too long|shorter|brief|concise|fewer words|wordy": {"brief"},
    r"(?:one|single|first) sentence\b": {"one_sentence", "brief"},
    r"spanish": {"spanish"},
    r"chinese": {"chinese"},
    r"english": {"spanish", "chinese"},
}


def all_complaints(style):
    return complaints(style) + complaints(style, held_out=True)


@pytest.mark.parametrize("style", STYLES)
def test_each_style_has_wordings_and_a_third_of_them_is_held_out(style):
    kept, held = complaints(style), complaints(style, held_out=True)
    assert len(kept) + len(held) >= 9 and 3 * len(held) == len(kept) + len(held) and not set(kept) & set(held)


@pytest.mark.parametrize("style", STYLES)
def test_no_complaint_speaks_of_another_styles_subject(style):
    for text, (pattern, styles) in itertools.product(all_complaints(style), ONLY_IN.items()):
        assert style in styles or not re.search(pattern, text, re.IGNORECASE), text


def test_praise_asks_for_nothing_and_unrelated_follow_ups_speak_of_no_answer():
    for texts, least in ((praise, 12), (unrelated, 24)):
        kept, held = texts(), texts(held_out=True)
        assert len(kept) + len(held) >= least and 3 * len(held) == len(kept) + len(held) and not set(kept) & set(held)
    asking = r"\?|please\b|could you|next time|don't|\bno\b|\bbut\b|more|less"
    assert not [text for text in praise() + praise(held_out=True) if re.search(asking, text, re.IGNORECASE)]
    about_answers = r"answer|list|emoji|thank|\btext\b|short|format"
    assert not [
        text for text in unrelated() + unrelated(held_out=True) if re.search(about_answers, text, re.IGNORECASE)
    ]


def test_all_wordings_differ():
    texts = [text for style in STYLES for text in all_complaints(style)]
    texts += [*praise(), *praise(held_out=True), *unrelated(), *unrelated(held_out=True)]
    assert len({text.lower().strip(".! ") for text in texts}) == len(texts)


def test_personas_are_those_of_the_simulated_user():
    assert all(STYLES[style] == PERSONAS[style] for style in STYLES)
    assert "thirty words" in STYLES["brief"]


def test_an_unknown_style_names_the_nearest():
    with pytest.raises(SettingError, match="Did you mean no_emojis"):
        check_style("no_emoji")
