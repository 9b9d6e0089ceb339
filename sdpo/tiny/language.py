"""The language of the tiny world: posts, answers in eight styles, and the users' follow-ups.

A post states whose pet did what to which object, where, and how the author feels. An answer summarizes it in one style:
with or without an emoji, casual or formal, long or short. Follow-ups ask for the other value of an axis, say thanks, or
are about something else. `oracle.py` parses all of these texts.

Posts and wordings are divided by a hash into a training part and a held-out part. The words of a held-out combination
occur in training, the combination does not.
"""

import hashlib
from dataclasses import dataclass
from itertools import chain, product
from random import Random
from typing import NamedTuple

SLOTS = {
    "who": [
        "sister",
        "brother",
        "neighbor",
        "cousin",
        "roommate",
        "boss",
        "teacher",
        "uncle",
        "aunt",
        "friend",
        "coach",
        "landlord",
    ],
    "pet": ["parrot", "dog", "cat", "goat", "hamster", "rabbit", "ferret", "duck", "pony", "turtle", "lizard", "pig"],
    "deed": ["chewed", "buried", "licked", "scratched", "dropped", "painted", "kicked", "burned", "stained", "dragged"],
    "thing": [
        "phone",
        "hat",
        "wallet",
        "guitar",
        "passport",
        "pillow",
        "laptop",
        "sofa",
        "shoe",
        "cake",
        "bike",
        "diary",
    ],
    "place": ["kitchen", "garden", "garage", "attic", "hallway", "bedroom", "office", "basement"],
    "mood": ["angry", "sad", "amused", "worried", "tired", "confused", "proud", "nervous"],
}

POSTS = (
    "My {who} has a {pet}. Yesterday it {deed} my {thing} in the {place}. I feel {mood} about it.",
    "So the {pet} of my {who} {deed} my {thing} while we were in the {place}, and now I am {mood}.",
    "I was in the {place} when I saw it: the {pet} of my {who} {deed} my {thing}. I am just {mood}.",
    "I am {mood} today. My {who} left a {pet} with me and it {deed} my {thing} in the {place}.",
)

# (casual, long) -> the answer templates.
ANSWERS = {
    (True, False): (
        "{pet} {deed} my {thing} lol",
        "lol the {pet} totally {deed} my {thing}",
    ),
    (False, False): (
        "The {pet} {deed} my {thing}.",
        "My {thing} was {deed} by the {pet}.",
    ),
    (True, True): (
        "so the {pet} of my {who} {deed} my {thing} in the {place} and i'm kinda {mood} about it lol",
        "lol my {who} has a {pet}, it totally {deed} my {thing} in the {place}, so yeah i'm {mood} now",
    ),
    (False, True): (
        "The {pet} of my {who} {deed} my {thing} in the {place}. I feel {mood} about the matter.",
        "While in the {place}, my {thing} was {deed} by the {pet} of my {who}. I am {mood} as a result.",
    ),
}
EMOJIS = ["😀", "😂", "🐾", "🙈", "🎉"]
PREFIX = "TL;DR: "

AXES = ("emoji", "casual", "long")

# (axis, wanted value) -> the sentences that ask for it.
REQUESTS = {
    ("emoji", False): (
        "No emojis please.", "Leave the emojis out.", "I don't want emojis.",
        "Those little pictures bother me.", "Write it without emojis.", "Skip the emojis.",
    ),
    ("emoji", True): (
        "Add an emoji.", "I want an emoji in it.", "It needs an emoji.",
        "Put an emoji at the end.", "Where is the emoji?", "An emoji would be nice.",
    ),
    ("casual", True): (
        "Make it casual.", "That's too stiff.", "Loosen up a bit.",
        "Say it like a friend would.", "It sounds too formal.", "Use a relaxed tone.",
    ),
    ("casual", False): (
        "Make it formal.", "That's too sloppy.", "Please sound professional.",
        "Drop the slang.", "It sounds too casual.", "Use a serious tone.",
    ),
    ("long", False): (
        "Make it shorter.", "That's too long.", "Cut it down.",
        "Just the main point.", "Too many details.", "Keep it brief.",
    ),
    ("long", True): (
        "Make it longer.", "That's too short.", "Tell me more.",
        "Add the details.", "I want the whole story.", "Spell it all out.",
    ),
}  # fmt: skip
# Sentences that differ in one or two words from one for the opposite. "It sounds too" names the value not wanted.
CONFUSABLE = {
    ("emoji", False): ("I don't want emojis.",),
    ("emoji", True): ("I want an emoji in it.",),
    ("casual", True): ("Make it casual.", "It sounds too formal."),
    ("casual", False): ("Make it formal.", "It sounds too casual."),
    ("long", False): ("Make it shorter.", "That's too long."),
    ("long", True): ("Make it longer.", "That's too short."),
}
THANKS = (
    "Perfect, thank you.", "That's just what I wanted.", "Great work.",
    "Nice one, that suits me.", "I like it.", "Good, keep it like that.",
)  # fmt: skip
UNRELATED = (
    "What's the weather tomorrow?", "Can you name a good movie?", "How far is the moon?",
    "What time is it in Tokyo?", "Where can I buy a lamp?", "Who won the game last night?",
    "How do I boil rice?", "What is the capital of Peru?", "My train leaves soon.",
    "I need to fix my car.", "Is it raining there?", "Which river is the widest?",
)  # fmt: skip
OPENERS = ("", "Hmm.", "Okay, but one thing.", "Not quite.", "Almost.", "I read it.")
CLOSERS = ("", "Try again.", "Thanks.", "That's all I ask.", "You know my taste.")
THANKS_OPENERS = ("", "Oh.", "Okay.", "I read it.", "Well.")
THANKS_CLOSERS = ("", "Thanks.", "See you.", "Have a nice day.", "That's all.")
UNRELATED_OPENERS = ("", "By the way.", "Next question.", "Something else.", "Now then.")
UNRELATED_CLOSERS = ("", "Just curious.", "No rush.", "Thanks.", "If you know.")


class Style(NamedTuple):
    """The value of each axis, in the order of `AXES`."""

    emoji: bool
    casual: bool
    long: bool


@dataclass(frozen=True)
class Post:
    """The facts of a post (slot -> word) and the index of its template in `POSTS`."""

    facts: dict[str, str]
    template: int

    @property
    def text(self) -> str:
        """The text of the post, as it is in a prompt."""
        return POSTS[self.template].format(**self.facts)


def held_out(*parts: str, one_in: int = 5) -> bool:
    """Return whether a combination of parts is held out from training: one in `one_in`, by hash."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") % one_in == 0


def sample_post(rng: Random, held: bool = False) -> Post:
    """Return a random post of the training part or, with `held`, of the held-out part: same words, new combinations."""
    while True:
        facts = {slot: rng.choice(words) for slot, words in SLOTS.items()}
        if held_out(*facts.values()) == held:
            return Post(facts, rng.randrange(len(POSTS)))


def sample_style(rng: Random) -> Style:
    """Return a random style: each axis is True with probability one half."""
    return Style(*(rng.random() < 0.5 for _ in AXES))


def write_answer(rng: Random, post: Post, style: Style) -> str:
    """Return an answer in the style that states facts of the post."""
    body = rng.choice(ANSWERS[style.casual, style.long]).format(**post.facts)
    return PREFIX + body + (" " + rng.choice(EMOJIS) if style.emoji else "")


def write_request(rng: Random, wanted: dict[str, bool], held: bool = False, wordings: dict = REQUESTS) -> str:
    """Return a follow-up that asks for every wanted axis value, in random order, with one of the wordings each."""
    items = list(wanted.items())
    rng.shuffle(items)
    return _compose(rng, OPENERS, [wordings[item] for item in items], CLOSERS, held)


def write_thanks(rng: Random, held: bool = False) -> str:
    """Return a follow-up of a user who is satisfied with the answer."""
    return _compose(rng, THANKS_OPENERS, [THANKS], THANKS_CLOSERS, held)


def write_unrelated(rng: Random, held: bool = False) -> str:
    """Return a follow-up that has nothing to do with the answer."""
    return _compose(rng, UNRELATED_OPENERS, [UNRELATED], UNRELATED_CLOSERS, held)


def _compose(rng: Random, openers: tuple, wordings: list[tuple], closers: tuple, held: bool) -> str:
    """Return an opener, one sentence of each group of wordings, and a closer, in the part of the language."""
    while True:
        parts = [rng.choice(openers), *(rng.choice(sentences) for sentences in wordings), rng.choice(closers)]
        if held_out(*parts) == held:
            return " ".join(part for part in parts if part)


def every_follow_up() -> list[str]:
    """Return every opener with every wording and closer, for the tokenizer's corpus."""
    groups: list[tuple[tuple[str, ...], ...]] = [
        (OPENERS, tuple(chain.from_iterable(REQUESTS.values())), CLOSERS),
        (THANKS_OPENERS, THANKS, THANKS_CLOSERS),
        (UNRELATED_OPENERS, UNRELATED, UNRELATED_CLOSERS),
    ]
    return [" ".join(filter(None, parts)) for group in groups for parts in product(*group)]
