"""What the shipped tiny model is taught: its tokenizer, and an endless supply of lessons for its three roles.

A lesson is a prompt and several continuations of it, scored together in one row (see `build.py`): the
answer to a post, the user's reaction to an answer, the verdict on two answers.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sdpo.text import prompts
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


class Continuation(NamedTuple):
    """A continuation of a lesson's prompt; what it is taught to say begins at `reply`."""

    ids: list[int]
    reply: int


class TrainingExample(NamedTuple):
    """A tokenized prompt, its continuations, and how much a token of a reply counts in the loss."""

    prompt: list[int]
    branches: list[Continuation]
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


class ExampleMixture(NamedTuple):
    """How often a tutor draws each kind of lesson, and how much a token of its replies counts.

    `kinds` weighs answers, reactions and verdicts; `contexts` weighs answers without a follow-up, with a thankful, an
    unrelated and an asking one; `styles` weighs the tastes of users, 1 where one is not named. `system` is the share
    with a system prompt, `confusable` that of requests in the wordings that are hardest to tell apart; `settled` holds
    the axes that are the same in every answer. Without `follows_hindsight` answers ignore what a follow-up asks for:
    such a model is what the audit has to detect.
    """

    kinds: tuple[float, float, float]
    contexts: tuple[float, float, float, float]
    system: float
    branches: int = 6
    confusable: float = 0.0
    follows_hindsight: bool = True
    reaction_weight: float = 1.0
    verdict_weight: float = 1.0
    styles: Mapping[str, float] | None = None
    settled: Mapping[str, bool] | None = None


class ExampleSampler:
    """Draws lessons from the training part of the language."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = Random(seed)
        self.styles = oracle.tiny_personas()

    def draw(self, mix: ExampleMixture) -> TrainingExample:
        """Return a lesson of the mix."""
        return self._pick((self._answer, self._reaction, self._verdict), mix.kinds)(mix)

    def _pick(self, options: Sequence, weights: Sequence[float]) -> Any:
        """Return one of the options by weight; nothing is drawn where there is no choice."""
        left = [option for option, weight in zip(options, weights, strict=True) if weight]
        return left[0] if len(left) == 1 else self.rng.choices(options, weights)[0]

    def _style(self, weights: Mapping[str, float] | None) -> tuple[str, dict[str, bool]]:
        return self.rng.choices(list(self.styles.values()), [(weights or {}).get(name, 1) for name in self.styles])[0]

    def _answer(self, mix: ExampleMixture) -> TrainingExample:
        """Return answers to one post, each after a follow-up of its own: only what they ask for tells them apart."""
        system = mix.system > 0 and self.rng.random() < mix.system
        post = language.sample_post(self.rng)
        messages = [{"role": "system", "content": prompts.SUMMARY_SYSTEM}] * system
        messages.append({"role": "user", "content": post.text})
        return self._lesson([self._answered(post, messages, mix) for _ in range(mix.branches)])

    def _answered(self, post: language.Post, messages: list[prompts.Message], mix: ExampleMixture) -> tuple[list, str]:
        rng, wanted = self.rng, {}
        context = self._pick(("none", "thanks", "unrelated", "request"), mix.contexts)
        if context == "request":
            confusable = mix.confusable > 0 and rng.random() < mix.confusable
            axes = rng.sample(AXES, rng.choice((1, 1, 1, 2)))
            wanted = {axis: rng.random() < 0.5 for axis in axes}
            wordings = language.CONFUSABLE if confusable else language.REQUESTS
            messages = prompts.with_hindsight(messages, language.write_request(rng, wanted, wordings=wordings))
        elif context != "none":
            write: Callable = language.write_thanks if context == "thanks" else language.write_unrelated
            messages = prompts.with_hindsight(messages, write(rng))
        style = (
            language.sample_style(rng)._replace(**mix.settled or {})._replace(**wanted if mix.follows_hindsight else {})
        )
        return messages, language.write_answer(rng, post, style)

    def _reaction(self, mix: ExampleMixture, branches: int = 4) -> TrainingExample:
        rng, post = self.rng, language.sample_post(self.rng)
        persona, wanted = self._style(mix.styles)
        exchanges = []
        for _ in range(branches):
            completion = self._completion(post)
            complaints = oracle.react(completion, wanted).wanted
            reply = language.write_request(rng, complaints) if complaints else language.write_thanks(rng)
            exchanges.append((prompts.user_messages(persona, post.text, completion), reply))
        return self._lesson(exchanges, mix.reaction_weight)

    def _verdict(self, mix: ExampleMixture, branches: int = 4) -> TrainingExample:
        post, (persona, wanted) = language.sample_post(self.rng), self._style(mix.styles)
        exchanges = []
        for _ in range(branches):
            # Each verdict as often as the others: where C leads, saying C is learned and nothing after it for long.
            due = self.rng.choice("ABC")
            while oracle.verdict(*(pair := self._pair(post, wanted)), wanted) != due:
                pass
            exchanges.append((prompts.judge_messages(persona, post.text, *pair), prompts.VERDICTS[due]))
        # One token of a verdict's few says anything.
        return self._lesson(exchanges, mix.verdict_weight)

    def _pair(self, post: language.Post, wanted: dict[str, bool]) -> tuple[str, str]:
        """Return two completions; every second time they differ in nothing but what the taste is about."""
        rng, first = self.rng, language.sample_style(self.rng)
        second = language.sample_style(rng)
        if rng.random() < 0.5:
            second = first._replace(**{axis: getattr(second, axis) for axis in wanted})
        return language.write_answer(rng, post, first), language.write_answer(rng, post, second)

    def _completion(self, post: language.Post) -> str:
        return language.write_answer(self.rng, post, language.sample_style(self.rng))

    def _lesson(self, exchanges: list[tuple[list[prompts.Message], str]], weight: float = 1.0) -> TrainingExample:
        """Return the exchanges with what all their prompts begin with written once."""
        asked = [self._encode(self._render(messages)) for messages, _ in exchanges]
        same = (len(set(ids)) == 1 for ids in zip(*asked, strict=False))
        shared = sum(itertools.takewhile(bool, same))
        branches = [
            Continuation(ids[shared:] + self._encode(reply) + [self.tokenizer.eos_token_id], len(ids) - shared)
            for ids, (_, reply) in zip(asked, exchanges, strict=True)
        ]
        return TrainingExample(asked[0][:shared], branches, weight)

    def _render(self, messages: list[prompts.Message]) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
