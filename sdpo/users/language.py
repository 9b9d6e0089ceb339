"""Which language or script a short text is in: a rough reading, without a model, for a text of a sentence or two."""

import re
import unicodedata
from collections import Counter

# Frequent words; a text is in the language that most of its words belong to.
_WORDS = {
    "English": "the is it that this of and to you i my for with please but are have your it's like too how what does",
    "German": "der das und ist nicht ich es zu bitte mir mich mit sich auch ein eine wie aber sehr danke kürzer lang",
    "French": "le les et est pas je une des que qui pour dans avec plus très trop vous merci c'est il ce cette",
    "Spanish": "el los las y es una que por para con muy más pero gracias demasiado respuesta favor quiero gusta esta",
    "Italian": "il gli che è una per non con molto più ma grazie troppo mi piace questo questa sono della vorrei",
    "Portuguese": "os uma que é não para com muito mais mas obrigado por eu isso você está resposta gostei da",
    "Dutch": "het een en niet ik dat van te met voor maar heel dank korter lang graag zijn mij deze wil",
}
_FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_KANA = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}  # Japanese mixes them
_LEAST_WORDS = 2


def language_of(text: str) -> str | None:
    """Return the language of a text in Latin script, the script of another text; None if that is not clear."""
    scripts = Counter(unicodedata.name(char, "?").split()[0] for char in text if char.isalpha())
    if not scripts:
        return None
    script = scripts.most_common(1)[0][0]
    if script != "LATIN":
        return _KANA.get(script, script)
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower().replace("’", "'"))
    hits = {language: sum(word in known for word in words) for language, known in _FUNCTION_WORDS.items()}
    best, second = sorted(hits, key=hits.__getitem__, reverse=True)[:2]
    return best if hits[best] >= _LEAST_WORDS and hits[best] > hits[second] else None
