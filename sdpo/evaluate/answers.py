"""Each model's answers to the prompts, each worked out once.

An answer is kept by what it depends on: the model's weights, the prompt's tokens, how it was decoded. Batches
are made from the whole list of prompts, so that an answer does not depend on what was there before either.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import PartialState
from accelerate.utils import gather_object

from sdpo.errors import ServerError, one_line
from sdpo.evaluate.models import EvaluatedModel, ModelCache, tokenizer_of
from sdpo.evaluate.store import Store, key_of
from sdpo.llm import Backend, Client, Reply, ReplyCache, Request
from sdpo.models.generate import generate
from sdpo.text.chat import encode_prompt
from sdpo.text.prompts import Message

# Prompts are sorted by length within so many batches: little padding, and a longer list keeps the first ones.
_BATCHES_SORTED = 8


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded."""

    max_new_tokens: int
    temperature: float
    seed: int

    def facts(self) -> list:
        """Return what an answer depends on; the seed only where something is drawn."""
        return [self.max_new_tokens, self.temperature, self.seed if self.temperature > 0 else None]


@dataclass(frozen=True)
class Answer:
    """A model's answer; `finished` is whether it ended by itself, None where a server does not tell."""

    text: str
    finished: bool | None = None


class LocalAnswers:
    """Answers from models loaded here, with the prompts shared out among the processes.

    `generated` counts answers by model, those of this call alone.
    """

    def __init__(
        self, store: Store, model_cache: ModelCache, state: PartialState, decoding: Decoding, batch_size: int
    ) -> None:
        self.store, self.model_cache, self.state = store, model_cache, state
        self.decoding, self.batch_size = decoding, batch_size
        self.generated: dict[str, int] = {}

    def of(self, model: EvaluatedModel, weights: str, prompts: Sequence[list[Message]]) -> list[Answer]:
        """Return the answers to the prompts in their order. Every process calls it and gets all."""
        tokenizer = tokenizer_of(model)
        encoded = [encode_prompt(tokenizer, messages) for messages in prompts]
        facts = ["transformers", weights, str(self.model_cache.dtype), *self.decoding.facts()]
        keys = [key_of(*facts, ids) for ids in encoded]
        batches = [
            batch for batch in _batches(encoded, self.batch_size) if any(keys[i] not in self.store for i in batch)
        ]
        missing = len({keys[i] for batch in batches for i in batch if keys[i] not in self.store})
        self.generated[model.name] = missing
        if batches:
            report_progress = _progress(model.name, missing, self.state)
            new = self._generate(model, tokenizer, encoded, keys, batches, report_progress)
            for values in gather_object([new]):
                self.store.merge(values)
            report_progress(missing)
        return [Answer(*self.store[key]) for key in keys]

    def _generate(self, model, tokenizer, encoded, keys, batches, report_progress) -> dict[str, list]:
        new: dict[str, list] = {}
        mine = batches[self.state.process_index :: self.state.num_processes]
        loaded = self.model_cache.load(model) if mine else None
        for done, batch in enumerate(mine):
            report_progress(min(done * self.batch_size * self.state.num_processes, self.generated[model.name]))
            answers = generate(
                loaded,
                tokenizer,
                [encoded[i] for i in batch],
                self.decoding.max_new_tokens,
                len(batch),
                self.decoding.temperature,
                # Two models draw independently, and so do two batches of one.
                seed=int(key_of(self.decoding.seed, [keys[i] for i in batch])[:8], 16),
            )
            found = {keys[i]: list(answer) for i, answer in zip(batch, answers, strict=True)}
            found = {key: value for key, value in found.items() if key not in self.store}
            self.store.add(found)
            new |= found
        return new


class ServerAnswers:
    """Answers from models behind an OpenAI-compatible server, asked for by the main process alone."""

    def __init__(
        self,
        cache: ReplyCache,
        state: PartialState,
        decoding: Decoding,
        backend_of: Callable[[EvaluatedModel], Backend],
        concurrency: int,
        timeout: float,
    ) -> None:
        self.cache, self.state, self.decoding, self.backend_of = cache, state, decoding, backend_of
        self.concurrency, self.timeout = concurrency, timeout
        self.generated: dict[str, int] = {}

    def of(self, model: EvaluatedModel, weights: str, prompts: Sequence[list[Message]]) -> list[Answer]:
        """Return the answers to the prompts in their order; none where this is not the main process.

        Raises ServerError where any did not come; those that came are kept.
        """
        if not self.state.is_main_process:
            return []
        client = Client(
            _KeyedByWeights(self.backend_of(model), weights), self.concurrency, self.timeout, cache=self.cache
        )
        distinct = {str(messages): messages for messages in prompts}
        requests = [
            Request(messages, self.decoding.temperature, self.decoding.max_new_tokens) for messages in distinct.values()
        ]
        report_progress = _progress(model.name, len(requests), self.state)
        report_progress(0)
        replies = client.complete(requests)
        self.generated[model.name] = client.usage.requests
        failed = [reply for reply in replies if not isinstance(reply, Reply)]
        if failed:
            raise ServerError(
                f"{len(failed)} of {len(replies)} answers of {model.name} ({client.name}) did not come. "
                f"First cause: {one_line(failed[0], 200)} Run the same command again: it asks only for those."
            )
        report_progress(len(requests))
        by_prompt = {prompt: Answer(reply.text) for prompt, reply in zip(distinct, replies, strict=True)}
        return [by_prompt[str(messages)] for messages in prompts]


class _KeyedByWeights:
    """A backend whose replies are kept by the model's weights instead of its name: a name can be used twice."""

    kind = "answers"

    def __init__(self, backend: Backend, weights: str) -> None:
        self.name, self.model, self.ask = backend.name, weights, backend.ask


def _batches(encoded: Sequence[list[int]], size: int) -> list[list[int]]:
    """Return the places of the prompts in batches of similar length, the same for the same beginning of the list."""
    batches = []
    for start in range(0, len(encoded), size * _BATCHES_SORTED):
        window = range(start, min(start + size * _BATCHES_SORTED, len(encoded)))
        by_length = sorted(window, key=lambda i: len(encoded[i]))
        batches += [by_length[first : first + size] for first in range(0, len(by_length), size)]
    return batches


def _progress(name: str, usage: int, state: PartialState, seconds: float = 10.0) -> Callable[[int], None]:
    """Return what says how far a model is: at once, every few seconds, and at the end."""
    started = time.monotonic()
    last_report = started - seconds

    def report_progress(done: int) -> None:
        nonlocal last_report
        now = time.monotonic()
        if state.is_main_process and (now - last_report >= seconds or done == usage):
            last_report = now
            print(f"{name}: {done} of {usage} answers, {now - started:.0f} s", flush=True)

    return report_progress
