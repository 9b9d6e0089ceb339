"""Filler around an answer: praise and eagerness before it, offers and questions after it."""

import re

from sdpo.english.markdown import GAP, has_word
from sdpo.english.own_words import own_words


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


_GOOD = _any(
    "great|good|excellent|interesting|fantastic|wonderful|fascinating|brilliant|lovely|nice|amazing|awesome|thoughtful",
    "insightful|smart|superb|terrific|clever|fair|valid|important|intriguing|beautiful|fun|cool|perfect|exciting|solid",
    "sweet|neat|delightful|creative|original|timely|deep|profound|ambitious|admirable|marvell?ous|incredible|cute|delicious",
)
_ASKED = _any(
    "questions?|ideas?|topics?|choices?|points?|thoughts?|requests?|one|query|subject|observation|goal|project|plan",
    "decision|thinking|challenge|theme|debate|comparison|prompt|catch|call",
)
_SHOWN = _any(_ASKED, "way|gift|gesture|hobby|adventure|combination|scenario")
_VERY = "(?:really |very |truly |quite |absolutely |totally |such an? |so )*"
_EAGER = _any("certainly|sure thing|sure|of course|gladly|no problem|by all means|with pleasure|my pleasure|you bet")
_AGREEING = _any(_EAGER, "absolutely|definitely")
_OWN = r"(?:here\b|below\b|the following\b|i\b|let(?:'s|’s| me| us)\b|happy\b|glad\b)"
_INTERJECTION = r"\W*(?:(?:wow|ah|oh|well|hey|hmm|ooh|yes|okay|ok|now)[,!.]*\s+)?"

_PRAISE = re.compile(
    _INTERJECTION
    + _any(
        rf"(?:that|this|such)(?:['’]?s| is| was)? (?:an?|one|such an?) {_VERY}{_GOOD}"
        rf"(?:(?:,| and|, and) {_VERY}\w+)?(?: \w+)? {_ASKED}\b",
        rf"what an? (?:[\w-]+,? ){{1,4}}{_SHOWN}(?=\s*[!.,:;…–—]| to\b|\Z)",
        rf"(?:(?:that|it)['’]?s|that is|how) {_VERY}{_GOOD}\s*(?:[!.]|,(?! but\b))",
        r"you(?:['’]re| are) (?:absolutely |totally |completely |quite )?right\b"
        r"(?! (?:to|about|in|on|at|next|that|before))",
        rf"{_VERY}{_GOOD}(?: and {_GOOD})?(?: \w+)? {_ASKED}(?=\s*(?:[!.,;–—…{GAP}-]|(?<!s):|\Z))",
        rf"an? {_VERY}{_GOOD}(?: and {_GOOD})?(?: \w+)? {_ASKED}\s*[!.]",
        rf"{_VERY}{_GOOD} {_ASKED} (?:on|about|there)\b",
        r"(?:great|good|excellent|interesting) qu\w*\Z",  # cut off
        rf"(?:(?:that|this|it|your \w+) )?sounds (?:like )?(?:an? )?{_VERY}{_GOOD}\b",
        rf"{_GOOD} to (?:hear|see) (?:that )?(?:you|from)\b",
        r"(?:i )?(?:really )?love (?:this|that|it)(?: one)?\s*[!.]",
        r"you(?:['’](?:ve|re)| have| are)? (?:ask|rais|mak|made|pick|cho|pos|bring|brought)\w* (?:up )?(?:an? )?"
        rf"{_VERY}{_GOOD} {_ASKED}\b",
        rf"your question (?:is|was) (?:an? )?{_VERY}{_GOOD}\b",
        rf"it(?:['’]s| is) (?:really |so )?{_GOOD} (?:that you\b|to hear)",
        r"(?:kudos|bravo|good (?:for|on) you|love (?:the|this|your) (?:question|idea)|love that you|how thoughtful)\b",
        rf"(?:i['’]m |i am )?{_VERY}(?:glad|happy|pleased) (?:that )?you(?:['’]ve| have)? (?:asked|brought)",
        r"thank(?:s| you)(?: so much| very much)? for (?:asking|reaching out|sharing (?:this|that|your)"
        r"|your (?:question|request|message|inquiry|query|interest|curiosity)|the (?:\w+ )?question)",
        rf"i {_VERY}(?:just )?(?:love|like|appreciate|admire) (?:that you|this (?:question|idea|topic)"
        r"|the (?:question|idea)|your (?:question|idea|curiosity|thinking|enthusiasm))",
    ),
    re.IGNORECASE,
)
_EAGERNESS = re.compile(
    _INTERJECTION
    + _any(
        rf"{_EAGER}\s*[!.:]",
        rf"{_AGREEING}\s*[!.,:–—-]*\s*{_OWN}",  # "Absolutely, rice can be frozen" is an answer
        rf"{_AGREEING}\s*[!.]?\s*\Z",
        r"(?:as an? [^,.!?]{1,40}, )?(?:i['’]d|i would|i['’]ll|i will|i['’]m|i am) (?:be )?"
        r"(?:more than |very |so |always |absolutely )?(?:happy|glad|delighted|pleased|thrilled|excited) to\b",
        r"(?:happy|glad) to (?:help|assist|do|write)\b",
        r"i(?:['’]d| would) love to (?:help|assist|write|explain|share)\b",
        r"you(?:['’](?:ve|re)| have| are) (?:come to|in) the right place\b",
        r"(?:great|awesome|wonderful|perfect|fantastic|excellent|amazing|brilliant|lovely|nice|interesting)!",
    ),
    re.IGNORECASE,
)
_GREETING = re.compile(r"\W*(?:hi|hello|hey|welcome|greetings|good (?:morning|evening|day))\b", re.IGNORECASE)
_FEW_WORDS = 6  # a first sentence of no more words may stand before praise: a greeting, an exclamation

# Advice to ask somebody else is no offer.
_ASK = r"ask\b(?! (?:your|a|an|the|them|him|her|someone|somebody|people|staff|at|around)\b)"
_ASK += r"(?! for (?!clarification|more|details|further|an example))"
_DO_FOR_YOU = _any(
    "help|assist|explain|elaborate|expand|share|answer|go|provide|walk|adjust|revise|write|tailor|dig|discuss|clarify",
    "refine|make|draft|show|give|suggest|create|work|add|send|look|turn|put",
)
_OFFER = re.compile(
    _any(
        r"(?<!: )(?<!: please )\blet me kno(?:w\b|\Z)",  # "such as: let me know" quotes it
        r"\byou(?:['’]d| would)? (?:like|want|need|prefer) me to\b",
        r"\b(?:is|was) there (?:anything|something) else\b|\banything else (?:i can|you)\b",
        rf"\bfeel free to (?:{_ASK}|reach out|contact me|share|let me|message|return|follow up|(?:send|tell|drop) me)",
        rf"\bhesitate to (?:{_ASK}|reach out|contact me|let me|message|get in touch with me)",
        r"\b(?:hope|trust|hopefully) (?:this|that|it|these|the \w+) (?:help|answer|clarif|clear|cover|shed|provid)\w*",
        r"\bhope (?:this|that|it) (?:is|was) (?:help|use)ful\b",
        r"\bhope (?:this|that|it|these) (?:makes sense|gives you|works for you|meets)\b",
        r"\bhope i (?:could|was able to|have)\b",
        r"\bhope you (?:find|found|like|liked|enjoyed?) (?:this|that|it|these|the)\b",
        r"\b(?:would|do) you (?:like|want) (?:me to|more|another|to (?:know|see|hear|learn|try|explore|dive|go))\b",
        r"\bwould you like\b[^.!]*\?|\bwant me to\b",
        rf"\b(?:shall|should|can|may|could) i (?:also |perhaps )?{_DO_FOR_YOU}\b[^.!]*\?",
        r"\bneed (?:any |more |further )?help with\b[^.!]*\?|\bhow else can i\b",
        r"\A\W*(?:want|need|care for|interested in|curious (?:about|to)|anything|questions|thoughts|ready to|shall we"
        r"|which (?:one|of (?:these|those|them))|would (?:an?|it|that) [^.!?]* (?:help|work))\b[^.!]*\?",
        r"\bany (?:other |more |further )?questions\?",
        r"(?:\A\W*|\bi(?:['’](?:d|m|ll)| am| would| will)\b[^.!?]{0,20})"
        rf"(?:happy|glad|delighted|pleased) to {_DO_FOR_YOU}\b",
        r"\bi(?:['’]d| would) love to (?:hear|know|see|help)\b|\bkeep me (?:posted|updated)\b",
        r"\b(?:excited|eager|curious) to (?:hear|see|know)\b|\blooking forward to (?:your\b|hear)",
        r"\bplease (?:provide|share|send|post|give me|tell me|specify|reply|clarify)\b",
        r"\bplease ask[.!]?\Z|\ball ears\b|\ba (?:message|call|click) aw\w+",
        r"\bfor (?:further|more) (?:assistance|help|information|details), (?:please )?(?:provide|share|ask|tell|let)\b",
        r"\bif there(?:['’]s| is) (?:anything|something)(?: else| more)?(?: (?:i|you)\b|,)",
        r"\band i['’]ll\b|\bso (?:that )?i can\b|\bsay the word\b",
        r"\bi(?:['’]m| am) (?:always |still )?here\b|\bi am always here\b",
        r"\breach out (?:to me|if|any ?time)\b|\bask aw\w+",
        rf"\byou are (?:always )?welcome to {_ASK}",
        r"\b(?:message|ping|text|ask) me (?:any|if|again|about|when|for more)",
        rf"\bjust (?:{_ASK}|say the word|let me|shout|holler|say so)",
        r"\b(?:if|once|when) you\b[^.!?]*\bi(?: (?:can|could|will|am)\b|['’](?:ll|m)\b)",
        r"\bi (?:can|could) [^.!?]*\b(?:if (?:you|needed|useful|that|it)|more detail|further)\b",
        r"\bif (?:anything|something|any \w+) (?:is|seems|remains) (?:still )?(?:unclear|not clear|confusing)\b",
        r"\bif you (?:tell|give|send|share with) me\b",
        r"\b(?:tell|give|send|share with) me (?:more|your|what|about|which|the)\b",
        rf"\bi (?:can|could) also (?:\w+ )?{_DO_FOR_YOU}\b",
        r"\bdo(?:es)? (?:this|that|it) (?:help|make sense|sound|work|answer)\b[^.!]*\?",
        r"\bsound good\?|\bhow does that sound\b",
        r"\bdo you have (?:any )?(?:other |more |further |specific )?questions\b",
    ),
    re.IGNORECASE,
)
_QUESTIONS = re.compile(
    r"\b(?:if|should) you (?:have|need|wish|require|want) (?:to know |any |more |other |further |additional )*"
    r"(?:questions|help|assistance|information|clarification|more|details)\b(?P<rest>[^.!?]*)",
    re.IGNORECASE,
)
_TURNS_TO_US = re.compile(r"\A\W*\Z|\b(?:i|me|feel free|ask|reach out|please|hesitate|here)\b", re.IGNORECASE)
_SOMEBODY_ELSE = re.compile(
    r"\b(?:call|see|visit|contact|talk|speak|write|turn|consult|email|ring|ask)\b(?= (?!me\b)\w)"
)
_TO_THE_USER = re.compile(r"\byou(?:r|rs|['’]\w+)?\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)*]*\s+")
_LAST = 3


def opening_filler(text: str) -> str:
    """Return the praise or eagerness that an answer begins with, or an empty string."""
    passages = own_words(text)
    if not passages or not passages[0].first or passages[0].kind == "heading":
        return ""
    opening = [sentence for passage in passages[:2] for sentence in sentences(passage.text)]
    head = passages[0].text.lstrip()
    match = _PRAISE.match(head) or _EAGERNESS.match(head)
    if not match and len(opening) > 1 and len(opening[0].split()) <= _FEW_WORDS:
        match = _PRAISE.match(opening[1]) or (_GREETING.match(opening[0]) and _EAGERNESS.match(opening[1])) or None
    return " ".join(match[0].split()) if match else ""


def closing_filler(text: str, prompt: str = "") -> str:
    """Return the offer or question to the user that an answer ends with, or an empty string."""
    passages = own_words(text, prompt)
    spoken = [sentence for passage in passages for sentence in sentences(passage.text)]
    ending = [sentence for passage in passages if passage.last for sentence in sentences(passage.text)]
    last = ending[-_LAST:]
    if len(last) == len(spoken) > 1 and (last[0].endswith("?") or _EAGERNESS.match(last[0])):
        last = last[1:]  # how an answer begins is no closing
    for sentence in last:
        if _OFFER.search(sentence):
            return sentence
        if (match := _QUESTIONS.search(sentence)) and _is_for_us(match["rest"]):
            return sentence
    if last and len(spoken) > 1 and last[-1].rstrip(" )*_").endswith("?") and _TO_THE_USER.search(last[-1]):
        return last[-1]
    return ""


def _is_for_us(words: str) -> bool:
    """Return whether somebody with a question is sent to the assistant, and not to others."""
    return bool(_TURNS_TO_US.search(words)) and not _SOMEBODY_ELSE.search(words)


def sentences(text: str) -> list[str]:
    """Return the sentences of a block that have a word or stand for something."""
    parts = _SENTENCE_END.split(text.strip())
    return [" ".join(part.split()) for part in parts if has_word(part) or GAP in part]
