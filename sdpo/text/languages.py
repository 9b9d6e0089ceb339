"""The language of a text, by its script and its commonest words. What cannot be decided with confidence is None.

It serves to notice an answer in another language than its prompt's, so it knows the languages that models most often
fall into, and prefers no result to a wrong one. Code and addresses are not read.
"""

import re
from collections import Counter
from collections.abc import Sequence

# Names of scripts that stand for a language, in the order of trying -> their letters. Chinese comes after Japanese and
# Korean, which use its characters too.
_SCRIPTS = {
    "ja": re.compile("[\u3041-\u3096\u30a1-\u30fa]"),
    "ko": re.compile("[\uac00-\ud7a3]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]"),
    "he": re.compile("[\u05d0-\u05ea]"),
    "ar": re.compile("[\u0621-\u06ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "th": re.compile("[\u0e01-\u0e5b]"),
}
_UKRAINIAN, _PERSIAN = re.compile("[іїєґІЇЄҐ]"), re.compile("[پچژگی]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")

# The commonest words of languages in the Latin script; a word that is common in several counts a part for each.
_WORDS = {
    "en": "the and of to is that it you for was with are this have be not from they at by but what an we can your "
    "there their which or if will would how do has been were i my its who into more these when as so than them "
    "about could should only just me he she his her in on a no our one some most here why "
    "over any does did out after then where something because very much many please",
    "de": "der die das und ist nicht ein eine ich zu den mit sich auf für im dem von des auch es an als wie wir sie "
    "aus bei oder werden sind noch nach nur kann über einen einer eines um so man wenn haben war wird aber mehr was "
    "zum zur mir mein du ihr sein diese dieser ja hier durch vor in",
    "fr": "le la les des et est un une que qui dans pour pas sur ne plus avec ce il elle nous vous sont au aux du de "
    "en par se mais ou je tu cette ces être fait comme tout votre leur c'est d'un d'une on y à très où son sa ses "
    "même peut peuvent bien aussi sans était",
    "es": "el la los las de que y en un una es por con para no se del al lo como más pero sus su le ya o este sí "
    "porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos te yo está son tiene "
    "puede mi si ser fue puedes hacer gracias mucho mucha muchas tus eso esto hola quién qué cómo dónde cuál eres tres "
    "día años así ahora otro otra",
    "it": "il lo la i gli le di che e è un una per non con in del della dei delle al alla nel nella sono come più ma "
    "si da anche questo questa ho ha mi ti ci o se dal suo sua molto essere fatto può tutto quando dove perché "
    "io tu noi cosa ed",
    "pt": "o a os as de que e em um uma é do da dos das para com não por se no na nos nas mais como mas foi ao ele "
    "ela seu sua ou ser quando muito há já está eu também só pelo pela até isso entre porque era depois sem mesmo aos "
    "você são tem ter meu minha pode",
    "nl": "de het een en van ik te dat die in is niet zijn op aan met als voor er maar om dan zou of wat mijn men dit "
    "zo door over ze bij ook tot je mij uit der daar haar naar heb hoe heeft hebben worden wordt deze kan nog geen "
    "wel u we hier meer jouw",
    "pl": "i w na nie się z do to że jest jak a o ale co po za od tak przez dla ich już tylko był jego jej może oraz "
    "są przy by ten ta te które który czy być można bardzo jestem mnie mi go",
    "sv": "och att det i en som är på av för med till den har inte om ett han men var jag sig från vi så kan när "
    "hon under också efter eller nu sin där vid mot skulle ska du mycket vara detta blir bara dig mig",
    "tr": "ve bir bu da de için ile çok ne o gibi daha ama en var mı mi olarak olan sonra kadar ben sen biz değil "
    "ki her şey ya nasıl olduğunu ise bunu içinde veya",
}
_WEIGHTS: dict[str, dict[str, float]] = {}
_COUNT = Counter(word for words in _WORDS.values() for word in set(words.split()))
for _language, _words in _WORDS.items():
    for _word in set(_words.split()):
        _WEIGHTS.setdefault(_word, {})[_language] = 1 / _COUNT[_word]

_NOT_READ = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S+@\S+", re.DOTALL)
_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_FEW_WORDS = 4  # a shorter text in the Latin script has too few words to decide
_LETTERS_EACH = 3  # a Chinese, Japanese or Korean character stands for so many letters
_CLEAR = 1.3  # the first language has so many times the weight of the second

# A prompt that names a language may ask for an answer in it.
_NAMED = re.compile(
    r"\btranslat|\bübersetz|\btradu[icz]|\btraduire|перевед|翻译|翻訳|번역"
    r"|\b(?:in|into|to|from|auf|ins?|en|em|på|по|на)\s+(?:english|german|french|spanish|italian|portuguese|dutch|polish"
    r"|swedish|turkish|russian|ukrainian|greek|hebrew|arabic|persian|hindi|thai|chinese|mandarin|japanese|korean|latin"
    r"|englisch|deutsche?|französisch\w*|spanisch\w*|italienisch\w*|anglais|allemand|français|espagnol|inglés|alemán"
    r"|francés|español|inglese|tedesco|francese|spagnolo|inglês|alemão)\b"
    r"|\b(?:english|german|french|spanish|italian|portuguese|dutch|polish|swedish|turkish|russian|greek|arabic|hindi"
    r"|chinese|japanese|korean|latin)\s+(?:word|phrase|sentence|for|translation|version|poem|text)",
    re.IGNORECASE,
)


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None if it is short, mixed, or in none that is known here."""
    text = _NOT_READ.sub(" ", text)
    latin = len(_LATIN.findall(text))
    counts = {name: len(letters.findall(text)) for name, letters in _SCRIPTS.items()}
    script = max(counts, key=counts.__getitem__)
    letters = counts[script] * (_LETTERS_EACH if script in ("ja", "ko", "zh") else 1)
    if counts[script] < 2 or 2 * letters < latin:
        return _latin_language(_TOKEN.findall(text.lower().replace("’", "'"))) if latin else None
    for name in ("ja", "ko"):  # a few of their own letters decide: the rest may be Chinese characters
        if script == "zh" and 5 * counts[name] >= counts["zh"]:
            return name
    if script == "ru" and _UKRAINIAN.search(text):
        return "uk"
    if script == "ar" and _PERSIAN.search(text):
        return "fa"
    return script


def _latin_language(words: Sequence[str]) -> str | None:
    """Return the language whose commonest words these have clearly the most of."""
    if len(words) < _FEW_WORDS:
        return None
    weights: Counter[str] = Counter()
    for word in words:
        weights.update(_WEIGHTS.get(word, {}))
    if not weights:
        return None
    (first, most), (_, second) = [*weights.most_common(2), ("", 0.0)][:2]
    return first if most >= max(1.0, 0.1 * len(words), _CLEAR * second) else None


def in_other_language(prompt: str, answer: str) -> bool | None:
    """Return whether an answer is in another language than its prompt.

    None if either language is not known, or if the prompt speaks of a language and may ask for it.
    """
    if _NAMED.search(prompt):
        return None
    asked, answered = language_of(prompt), language_of(answer)
    return None if asked is None or answered is None else asked != answered
