"""What the shipped tiny model is taught: its tokenizer, and an endless supply of lessons for its three roles.

A lesson is a prompt and several continuations of it, scored together in one row (see `build.py`): the
answer to a post, the user's reaction to an answer, the verdict on two answers.
"""

import itertools
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sdpo import prompts
from sdpo.tiny import language, oracle
from sdpo.tiny.language import AXES

VOCABULARY = 1280
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]

# ChatML; as with Qwen3, thinking is switched off by an empty thought, and on unless told otherwise.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


class Branch(NamedTuple):
    """A continuation of a lesson's prompt; what it is taught to say begins at `reply`."""

    ids: list[int]
    reply: int


class Lesson(NamedTuple):
    """A tokenized prompt, its continuations, and how much a token of a reply counts in the loss."""

    prompt: list[int]
    branches: list[Branch]
    weight: float


def build_tokenizer(seed: int = 0, texts: int = 6000) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer fitted to the language and to every prompt, with its chat template."""
    rng = Random(seed)
    corpus = language.every_follow_up() * 2
    for _ in range(texts):
        post = language.sample_post(rng)
        corpus += [post.text, language.write_answer(rng, post, language.sample_style(rng))]
    for text, _ in oracle.tiny_personas().values():
        corpus += [prompts.USER_SYSTEM + text, prompts.JUDGE_SYSTEM + text] * 40
    corpus += [prompts.SUMMARY_SYSTEM, prompts.HINDSIGHT, prompts.USER_TURN, prompts.JUDGE_TURN] * 400
    corpus += [*prompts.VERDICTS.values(), "assistant\n", "system\n", "user\n", "TL;DR:\n"] * 400
    corpus += list(prompts.PERSONAS.values()) * 40

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


# Styles of one axis are taught more often than those of two: they are what the others are made of.
_STYLE_WEIGHTS = {"no_emojis": 6, "emojis": 6, "casual": 4, "formal": 4, "short": 3, "long": 3}


class Tutor:
    """Draws lessons from the training part of the language."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = Random(seed)
        self.styles = list(oracle.tiny_personas().values())
        self.style_weights = [_STYLE_WEIGHTS.get(name, 1) for name in oracle.tiny_personas()]

    def draw(self, stage: int) -> Lesson:
        """Return a lesson: in stage 0 plain answers to bare posts, in stage 1 every role."""
        if stage == 0:
            return self._answer(system=False, context="none", branches=6)
        share = self.rng.random()
        if share < 0.6:
            return self._answer(system=self.rng.random() < 0.85, context=self._context(), branches=4)
        return self._reaction() if share < 0.78 else self._verdict()

    def _context(self) -> str:
        return self.rng.choices(("none", "thanks", "unrelated", "request"), (26, 10, 20, 44))[0]

    def _answer(self, system: bool, context: str, branches: int) -> Lesson:
        rng, post, wanted = self.rng, language.sample_post(self.rng), {}
        messages = [{"role": "system", "content": prompts.SUMMARY_SYSTEM}] * system
        messages.append({"role": "user", "content": post.text})
        if context == "request":
            axes = rng.sample(AXES, rng.choice((1, 1, 1, 2)))
            wanted = {axis: rng.random() < 0.5 for axis in axes}
            messages = prompts.with_hindsight(messages, language.write_request(rng, wanted))
        elif context != "none":
            write: Callable = language.write_thanks if context == "thanks" else language.write_unrelated
            messages = prompts.with_hindsight(messages, write(rng))
        styles = [language.sample_style(rng)._replace(**wanted) for _ in range(branches)]
        return self._lesson([(messages, language.write_answer(rng, post, style)) for style in styles])

    def _reaction(self, branches: int = 4) -> Lesson:
        rng, post, (persona, wanted) = self.rng, language.sample_post(self.rng), self._style()
        exchanges = []
        for _ in range(branches):
            completion = self._completion(post)
            complaints = oracle.react(completion, wanted).wanted
            reply = language.write_request(rng, complaints) if complaints else language.write_thanks(rng)
            exchanges.append((prompts.user_messages(persona, post.text, completion), reply))
        return self._lesson(exchanges)

    def _verdict(self, branches: int = 4) -> Lesson:
        post, (persona, wanted) = language.sample_post(self.rng), self._style()
        exchanges = []
        for _ in range(branches):
            pair = self._completion(post), self._completion(post)
            reply = prompts.VERDICTS[oracle.verdict(*pair, wanted)]
            exchanges.append((prompts.judge_messages(persona, post.text, *pair), reply))
        # One token of a verdict's few says anything.
        return self._lesson(exchanges, weight=4.0)

    def _style(self) -> tuple[str, dict[str, bool]]:
        return self.rng.choices(self.styles, self.style_weights)[0]

    def _completion(self, post: language.Post) -> str:
        return language.write_answer(self.rng, post, language.sample_style(self.rng))

    def _lesson(self, exchanges: list[tuple[list[prompts.Message], str]], weight: float = 1.0) -> Lesson:
        """Return the exchanges with what all their prompts begin with written once."""
        asked = [self._encode(self._render(messages)) for messages, _ in exchanges]
        same = (len(set(ids)) == 1 for ids in zip(*asked, strict=False))
        shared = sum(itertools.takewhile(bool, same))
        branches = [
            Branch(ids[shared:] + self._encode(reply) + [self.tokenizer.eos_token_id], len(ids) - shared)
            for ids, (_, reply) in zip(asked, exchanges, strict=True)
        ]
        return Lesson(asked[0][:shared], branches, weight)

    def _render(self, messages: list[prompts.Message]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
