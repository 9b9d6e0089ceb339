"""The training data of the shipped tiny model: its tokenizer, and an unlimited supply of examples for its three roles.

The roles are the assistant (the answer to a post), the simulated user (the follow-up to an answer) and the judge (the
verdict on two answers). An example is a prompt with several continuations, trained on together in one row (see
`build.py`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sdpo.text import hindsight, prompts
from sdpo.tiny import language, oracle
from sdpo.tiny.language import AXES

VOCABULARY = 1280
# Newer than the shipped tokenizer, which has to come out the same.
_LATER = {"brief", "one_sentence", "spanish", "chinese"}
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]

# ChatML. As with Qwen3, an empty thought disables thinking, and the default is enabled.
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
    """The ids of a continuation of an example's prompt. The loss is on the reply, which begins at index `reply`."""

    ids: list[int]
    reply: int


class TrainingExample(NamedTuple):
    """A tokenized prompt, its continuations, and the weight of each token of a reply in the loss."""

    prompt: list[int]
    branches: list[Continuation]
    weight: float


def build_tokenizer(seed: int = 0, texts: int = 6000) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with its chat template, trained on the language and on all prompts."""
    rng = Random(seed)
    corpus = language.every_follow_up() * 2
    for _ in range(texts):
        post = language.sample_post(rng)
        corpus += [post.text, language.write_answer(rng, post, language.sample_style(rng))]
    for text, _ in oracle.tiny_personas().values():
        corpus += [prompts.USER_SYSTEM + text, prompts.JUDGE_SYSTEM + text] * 40
    corpus += [
        prompts.SUMMARY_SYSTEM,
        prompts.HINDSIGHT_TEMPLATES["framed"][1],
        prompts.USER_TURN,
        prompts.JUDGE_TURN,
    ] * 400
    corpus += [*prompts.VERDICTS.values(), "assistant\n", "system\n", "user\n", "TL;DR:\n"] * 400
    corpus += [persona for style, persona in prompts.PERSONAS.items() if style not in _LATER] * 40

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
    """How often each kind of example is drawn, and the weight of the tokens of its replies.

    kinds: the weights of answers, follow-ups and verdicts.
    contexts: for answers, the weights of no follow-up, thanks, an unrelated follow-up and a request in hindsight.
    system: the share of answers with a system prompt.
    branches: the number of answers in an example.
    confusable: the share of requests in the wordings that are hardest to distinguish.
    follows_hindsight: if False, answers ignore the request of a follow-up. The audit has to detect such a model.
    reaction_weight, verdict_weight: the weights of the tokens of follow-ups and verdicts.
    styles: the weights of the users' styles, 1 for those that are not named.
    settled: the axis values that all answers have.
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
    """Draws examples from the training part of the language."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = Random(seed)
        self.styles = oracle.tiny_personas()

    def draw(self, mix: ExampleMixture) -> TrainingExample:
        """Return a random example of the mixture."""
        return self._pick((self._answer, self._reaction, self._verdict), mix.kinds)(mix)

    def _pick(self, options: Sequence, weights: Sequence[float]) -> Any:
        """Return a random option by weight; no random number is drawn if only one has a weight."""
        possible = [option for option, weight in zip(options, weights, strict=True) if weight]
        return possible[0] if len(possible) == 1 else self.rng.choices(options, weights)[0]

    def _style(self, weights: Mapping[str, float] | None) -> tuple[str, dict[str, bool]]:
        """Return a random style's persona and the axis values that it wants."""
        return self.rng.choices(list(self.styles.values()), [(weights or {}).get(name, 1) for name in self.styles])[0]

    def _answer(self, mix: ExampleMixture) -> TrainingExample:
        """Return answers to one post, each after its own context: only their follow-ups distinguish the contexts."""
        system = mix.system > 0 and self.rng.random() < mix.system
        post = language.sample_post(self.rng)
        messages = [{"role": "system", "content": prompts.SUMMARY_SYSTEM}] * system
        messages.append({"role": "user", "content": post.text})
        return self._example([self._answered(post, messages, mix) for _ in range(mix.branches)])

    def _answered(self, post: language.Post, messages: list[prompts.Message], mix: ExampleMixture) -> tuple[list, str]:
        """Return the messages with a random follow-up in hindsight or without one, and an answer to them."""
        rng, wanted = self.rng, {}
        context = self._pick(("none", "thanks", "unrelated", "request"), mix.contexts)
        if context == "request":
            confusable = mix.confusable > 0 and rng.random() < mix.confusable
            axes = rng.sample(AXES, rng.choice((1, 1, 1, 2)))
            wanted = {axis: rng.random() < 0.5 for axis in axes}
            wordings = language.CONFUSABLE if confusable else language.REQUESTS
            messages = hindsight.with_hindsight(messages, language.write_request(rng, wanted, wordings=wordings))
        elif context != "none":
            write: Callable = language.write_thanks if context == "thanks" else language.write_unrelated
            messages = hindsight.with_hindsight(messages, write(rng))
        style = (
            language.sample_style(rng)._replace(**mix.settled or {})._replace(**wanted if mix.follows_hindsight else {})
        )
        return messages, language.write_answer(rng, post, style)

    def _reaction(self, mix: ExampleMixture, branches: int = 4) -> TrainingExample:
        """Return one user's follow-ups to several answers to one post."""
        rng, post = self.rng, language.sample_post(self.rng)
        persona, wanted = self._style(mix.styles)
        exchanges = []
        for _ in range(branches):
            completion = self._completion(post)
            complaints = oracle.react(completion, wanted).wanted
            reply = language.write_request(rng, complaints) if complaints else language.write_thanks(rng)
            exchanges.append((prompts.user_messages(persona, post.text, completion), reply))
        return self._example(exchanges, mix.reaction_weight)

    def _verdict(self, mix: ExampleMixture, branches: int = 4) -> TrainingExample:
        """Return one judge's verdicts on several pairs of answers to one post."""
        post, (persona, wanted) = language.sample_post(self.rng), self._style(mix.styles)
        exchanges = []
        for _ in range(branches):
            # All verdicts are equally frequent. If C is the most frequent, the model learns to answer C and, for a long
            # time, nothing else.
            label = self.rng.choice("ABC")
            while oracle.verdict(*(pair := self._pair(post, wanted)), wanted) != label:
                pass
            exchanges.append((prompts.judge_messages(persona, post.text, *pair), prompts.VERDICTS[label]))
        # Weighted, because only one of a verdict's few tokens carries information.
        return self._example(exchanges, mix.verdict_weight)

    def _pair(self, post: language.Post, wanted: dict[str, bool]) -> tuple[str, str]:
        """Return two completions. In half of the pairs their styles differ in nothing but the wanted axes."""
        rng, first = self.rng, language.sample_style(self.rng)
        second = language.sample_style(rng)
        if rng.random() < 0.5:
            second = first._replace(**{axis: getattr(second, axis) for axis in wanted})
        return language.write_answer(rng, post, first), language.write_answer(rng, post, second)

    def _completion(self, post: language.Post) -> str:
        """Return an answer to the post in a random style."""
        return language.write_answer(self.rng, post, language.sample_style(self.rng))

    def _example(self, exchanges: list[tuple[list[prompts.Message], str]], weight: float = 1.0) -> TrainingExample:
        """Return the (messages, reply) exchanges as one example, whose prompt is the common prefix of their prompts."""
        encoded = [self._encode(self._render(messages)) for messages, _ in exchanges]
        same = (len(set(ids)) == 1 for ids in zip(*encoded, strict=False))
        shared = sum(itertools.takewhile(bool, same))
        branches = [
            Continuation(ids[shared:] + self._encode(reply) + [self.tokenizer.eos_token_id], len(ids) - shared)
            for ids, (_, reply) in zip(encoded, exchanges, strict=True)
        ]
        return TrainingExample(encoded[0][:shared], branches, weight)

    def _render(self, messages: list[prompts.Message]) -> str:
        text: Any = self.tokenizer.apply_chat_template(  # a string, because of tokenize=False
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return text

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
