"""What the model that a run started from says of others: the quality of their answers, and how far they have moved.

Every result is stored by the weights of both models and the texts, so it is computed once. The start model is loaded
only while something is missing, and never together with another model: of the start model, its hidden states at its
own answers and its LM head remain.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn

from sdpo import progress
from sdpo.evaluate.answers import Answer
from sdpo.evaluate.models import EvaluatedModel, ModelCache, tokenizer_of
from sdpo.evaluate.store import Store, key_of
from sdpo.method.comparison import Comparison
from sdpo.method.scoring import Projection, Scores, find_head, hidden_states, score
from sdpo.models.answer_quality import AnswerQuality, measure_quality
from sdpo.models.general_answers import (
    GENERAL_SAMPLES,
    GENERAL_TOKENS,
    GeneralAnswers,
    Shift,
    compare_with_start,
    measure_shifts,
    sample_general_answers,
    tokenized,
)
from sdpo.text.chat import encode_answer
from sdpo.text.hindsight import HindsightTemplate
from sdpo.text.prompts import Message

GENERAL = "short"  # the kind of the prompts on which training measures the distance too
OPEN_TOKENS, OPEN_SAMPLES = 64, 1  # the same for answers to the prompts of all other kinds
# At most so many answers are measured and stored together: a killed evaluation loses no more.
QUALITY_CHUNK = 64


@dataclass(frozen=True)
class OwnAnswer:
    """An answer of the start model to a general prompt of one kind."""

    kind: str
    prompt: str
    text: str
    finished: bool


@dataclass(frozen=True)
class _Reference:
    """What is left of the start model when it is no longer loaded; the hidden states are on the CPU."""

    projection: Projection
    hidden: list[Tensor]


class StartMeasures:
    """Measures models by the start model. `own_answers` and `qualities` are collective."""

    def __init__(
        self,
        start: EvaluatedModel,
        weights: str,
        store: Store,
        model_cache: ModelCache,
        state: PartialState,
        batch_size: int,
        seed: int,
    ) -> None:
        self.start, self.weights, self.store = start, weights, store
        self.model_cache, self.state, self.batch_size, self.seed = model_cache, state, batch_size, seed
        self.tokenizer = tokenizer_of(start)
        self._reference: _Reference | None = None

    def own_answers(self, kinds: Mapping[str, Sequence[str]]) -> list[OwnAnswer]:
        """Return the start model's answers to the prompts of each kind, generated once by the main process."""
        keys = {
            kind: self._key("own answers", kind, list(prompts), _limits(kind), self.seed)
            for kind, prompts in kinds.items()
        }
        new: dict[str, list] = {}
        if self.state.is_main_process:
            for kind, key in keys.items():
                if key not in self.store:
                    new[key] = self._sample(kind, kinds[kind])
                    self.store.add({key: new[key]})
        self.share(new)
        return [OwnAnswer(kind, *row) for kind, key in keys.items() for row in self.store[key]]

    def _sample(self, kind: str, prompts: Sequence[str]) -> list[list]:
        samples, tokens = _limits(kind)
        model = self.model_cache.load(self.start)
        rows = sample_general_answers(
            model, self.tokenizer, prompts, samples, tokens, max(self.batch_size, 1), self.seed
        )
        return [list(row) for row in rows]

    def qualities(
        self,
        prompts: Sequence[list[Message]],
        answers: Mapping[str, Sequence[Answer]],
        wishes: Mapping[str, str | None],
        template: HindsightTemplate,
    ) -> dict[str, list[AnswerQuality]]:
        """Return model name -> quality of each of its answers to the prompts.

        `wishes` has the style in the user's words for each model, None where it is not known.
        """
        jobs: dict[str, list[tuple[slice, str]]] = {}
        for name, texts in answers.items():
            jobs[name] = []
            for rows in _even_chunks(len(prompts), QUALITY_CHUNK):
                chunk = [[messages, answer.text, answer.finished] for messages, answer in
                         zip(prompts[rows], texts[rows], strict=True)]  # fmt: skip
                jobs[name].append((rows, self._key("quality", wishes[name], vars(template), chunk)))
        missing = {key: (name, rows) for name, chunks in jobs.items() for rows, key in chunks if key not in self.store}
        new: dict[str, list] = {}
        for key in progress.each(
            self.own_share(list(missing)), "answers by the start model", f"parts of {QUALITY_CHUNK}"
        ):
            name, rows = missing[key]
            new[key] = [
                list(vars(quality).values())
                for quality in self._measure_quality(prompts[rows], answers[name][rows], wishes[name], template)
            ]
            self.store.add({key: new[key]})
        self.share(new)
        return {
            name: [AnswerQuality(*figures) for _, key in chunks for figures in self.store[key]]
            for name, chunks in jobs.items()
        }

    def _measure_quality(
        self,
        prompts: Sequence[list[Message]],
        answers: Sequence[Answer],
        wish: str | None,
        template: HindsightTemplate,
    ) -> list[AnswerQuality]:
        model = self.model_cache.load(self.start)

        @torch.no_grad()
        def score_rows(contexts: list[list[int]], completions: list[list[int]]) -> Scores:
            return score(model, contexts, completions, self.batch_size, entropy=True)

        completions = [encode_answer(self.tokenizer, answer.text, answer.finished is not False) for answer in answers]
        return measure_quality(score_rows, self.tokenizer, prompts, completions, wish, template)

    def shift_key(self, weights: str, own: Sequence[OwnAnswer]) -> str:
        """Return the key under which the shifts of a model with these weights are stored."""
        return self._key("shifts", weights, [list(vars(answer).values()) for answer in own])

    def measure_shifts(self, model: EvaluatedModel, own: Sequence[OwnAnswer]) -> list[Shift] | None:
        """Return how far a model has moved on each of the start model's answers; one process may call this alone.

        None if the model does not have the start model's vocabulary, and so no comparable distributions.
        """
        general, reference = self._general(own), self.prepare(own)
        loaded = self.model_cache.load(model).requires_grad_(False)
        same_head = find_head(loaded).weight.shape[0] == reference.projection.weight_VH.shape[0]
        if not same_head or tokenizer_of(model).get_vocab() != self.tokenizer.get_vocab():
            return None
        first = 0

        def compare_rows(policy: nn.Module, prompts: list[list[int]], completions: list[list[int]]) -> Comparison:
            nonlocal first
            hidden = [row.to(self.model_cache.device) for row in reference.hidden[first : first + len(prompts)]]
            first += len(prompts)
            return compare_with_start(policy, reference.projection, hidden, prompts, completions)

        return measure_shifts(loaded, general, self.batch_size, compare_rows)

    @torch.no_grad()
    def prepare(self, own: Sequence[OwnAnswer]) -> _Reference:
        """Keep what shifts are measured by, so that the start model is loaded before the others, and once."""
        if self._reference is None:
            general, model = self._general(own), self.model_cache.load(self.start)
            hidden = hidden_states(model, general.prompts, general.completions, self.batch_size)
            self._reference = _Reference(Projection.of(model), [row.cpu() for row in hidden])
        return self._reference

    def _general(self, own: Sequence[OwnAnswer]) -> GeneralAnswers:
        return tokenized(self.tokenizer, [(answer.prompt, answer.text, answer.finished) for answer in own])

    def forget_reference(self) -> None:
        """Free the memory of what is kept of the start model."""
        self._reference = None

    def own_share(self, items: Sequence[str]) -> list[str]:
        """Return the part of the items that this process works on."""
        return list(items[self.state.process_index :: self.state.num_processes])

    def share(self, new: dict) -> None:
        """Give all processes what each has added to the store. Collective."""
        for values in gather_object([new]):
            self.store.merge(values)

    def _key(self, *parts: object) -> str:
        return key_of(*parts, self.weights, str(self.model_cache.dtype))


def _limits(kind: str) -> tuple[int, int]:
    """Return the number of samples of each prompt of a kind, and the maximum length of an answer."""
    return (GENERAL_SAMPLES, GENERAL_TOKENS) if kind == GENERAL else (OPEN_SAMPLES, OPEN_TOKENS)


def _even_chunks(count: int, most: int) -> list[slice]:
    """Return slices of nearly equal size: one answer alone has no other prompt to compare its topic with."""
    chunks = -(-count // most)
    bounds = [count * index // chunks for index in range(chunks + 1)] if count else []
    return [slice(first, last) for first, last in itertools.pairwise(bounds)]
