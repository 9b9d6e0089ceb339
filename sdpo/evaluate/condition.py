"""The condition of the baseline and of every checkpoint: is anything beside the style other than it was?

A model's own answers to the evaluation's prompts show its quality, length, refusals and language, several samples of a
few prompts its diversity, and the start model's answers to general prompts how far it has moved. See `Condition`.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from sdpo import progress
from sdpo.evaluate.answers import Answer, ServerAnswers
from sdpo.evaluate.evidence import Condition
from sdpo.evaluate.models import EvaluatedModel, ModelCache, tokenizer_of
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.start_measures import GENERAL, OwnAnswer, StartMeasures
from sdpo.evaluate.store import Store, key_of
from sdpo.models.answer_quality import AnswerQuality, summarize_quality
from sdpo.models.general_answers import Shift, distance_of, log_probability_of
from sdpo.models.generate import generate
from sdpo.text.chat import encode_prompt
from sdpo.text.declining import declines
from sdpo.text.hindsight import HindsightTemplate
from sdpo.text.languages import in_other_language
from sdpo.text.prompts import GENERAL_PROMPTS, OPEN_PROMPTS, Message

if TYPE_CHECKING:
    from sdpo.users.oracle import Oracle

MIN_KIND_ANSWERS, OTHER_KINDS = 4, "other kinds"
SAMPLED_PROMPTS, SAMPLES, SAMPLE_TOKENS = 8, 4, 64
_PHRASE = 3  # words
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Taste:
    """The style that a model's answers are read for: the user's words, and what reads it; None where unknown."""

    wish: str | None = None
    oracle: "Oracle | None" = None


@dataclass(frozen=True)
class Subject:
    """A model to measure: its fingerprint, its answers to the evaluation's prompts, and the style it was trained for.

    The baseline has the taste of the checkpoints that it is compared with.
    """

    model: EvaluatedModel
    weights: str
    answers: Sequence[Answer]
    taste: Taste


class ConditionMeter:
    """Measures models, each figure once: all that is generated or scored is stored.

    `start` is None where no weights can be loaded: then only the texts are measured. `served` asks a server for the
    samples instead of a model loaded here.
    """

    def __init__(
        self,
        start: StartMeasures | None,
        store: Store,
        model_cache: ModelCache,
        max_new_tokens: int,
        served: ServerAnswers | None = None,
    ) -> None:
        self.start, self.store, self.model_cache, self.served = start, store, model_cache, served
        self.tokens = min(SAMPLE_TOKENS, max_new_tokens)

    def conditions(
        self,
        subjects: Mapping[str, Subject],
        prompts: Sequence[EvaluationPrompt],
        kinds: Mapping[str, Sequence[str]],
        template: HindsightTemplate,
        oracles: Sequence["Oracle | None"] = (),
    ) -> dict[str, Condition]:
        """Return name -> condition. `kinds` are the general prompts by kind. Collective.

        Of the start model's answers to them, those count that fit the style of every subject and all `oracles`.
        """
        messages = [prompt.messages for prompt in prompts]
        own: list[OwnAnswer] = []
        qualities: Mapping[str, list[AnswerQuality]] = {}
        shifts: Mapping[str, list[Shift] | None] = {}
        if self.start is not None:
            readers = [*oracles, *(subject.taste.oracle for subject in subjects.values())]
            own = [row for row in self.start.own_answers(kinds) if _fits_all(readers, row)]
            answers = {name: subject.answers for name, subject in subjects.items()}
            wishes = {name: subject.taste.wish for name, subject in subjects.items()}
            qualities = self.start.qualities(messages, answers, wishes, template)
            self._measure_models(self.start, subjects, own, messages[:SAMPLED_PROMPTS])
            shifts = {name: self._shifts(self.start, subject, own) for name, subject in subjects.items()}
        samples = self._samples(subjects, messages[:SAMPLED_PROMPTS])
        return {
            name: condition_of(prompts, subject, qualities.get(name, []), samples[name], own, shifts.get(name))
            for name, subject in subjects.items()
        }

    def _measure_models(
        self,
        start: StartMeasures,
        subjects: Mapping[str, Subject],
        own: Sequence[OwnAnswer],
        sampled: Sequence[list[Message]],
    ) -> None:
        """Store the samples and the shifts of all models; each process loads its share of those that lack some."""
        needed = {name: self._needed(start, subject, own, sampled) for name, subject in subjects.items()}
        new: dict[str, list | None] = {}
        done: set[str] = set()  # two models with the same weights are measured once
        share = start.own_share([name for name, keys in needed.items() if keys])
        if any("shifts" in needed[name] for name in share):
            start.prepare(own)
        for name in progress.each(share, "condition", "models"):
            model = subjects[name].model
            for kind, key in needed[name].items():
                if key in done:
                    continue
                if kind == "samples":
                    new[key] = self._sample(model, sampled, start.seed, start.batch_size)
                else:
                    moved = start.measure_shifts(model, own)
                    new[key] = None if moved is None else [list(vars(shift).values()) for shift in moved]
                self.store.add({key: new[key]})
                done.add(key)
        start.forget_reference()
        start.share(new)

    def _needed(
        self, start: StartMeasures, subject: Subject, own: Sequence[OwnAnswer], sampled: Sequence[list[Message]]
    ) -> dict[str, str]:
        """Return what is still to be measured of a model: `samples` and `shifts` -> their key."""
        keys = {} if self.served is not None else {"samples": self._samples_key(start, subject, sampled)}
        keys |= {"shifts": start.shift_key(subject.weights, own)} if own else {}
        return {kind: key for kind, key in keys.items() if key not in self.store}

    def _shifts(self, start: StartMeasures, subject: Subject, own: Sequence[OwnAnswer]) -> list[Shift] | None:
        rows = self.store[start.shift_key(subject.weights, own)] if own else None
        return None if rows is None else [Shift(*row) for row in rows]

    # Several samples of a few prompts

    def _samples_key(self, start: StartMeasures, subject: Subject, sampled: Sequence[list[Message]]) -> str:
        dtype = str(self.model_cache.dtype)
        return key_of("samples", subject.weights, dtype, self.tokens, start.seed, SAMPLES, list(sampled))

    def _sample(
        self, model: EvaluatedModel, sampled: Sequence[list[Message]], seed: int, batch_size: int
    ) -> list[list[str]]:
        tokenizer = tokenizer_of(model)
        encoded = [encode_prompt(tokenizer, messages) for messages in sampled for _ in range(SAMPLES)]
        loaded = self.model_cache.load(model)
        answers = generate(loaded, tokenizer, encoded, self.tokens, batch_size, temperature=1.0, seed=seed)
        texts = [text for text, _ in answers]
        return [texts[first : first + SAMPLES] for first in range(0, len(texts), SAMPLES)]

    def _samples(self, subjects: Mapping[str, Subject], sampled: Sequence[list[Message]]) -> dict[str, list[list[str]]]:
        """Return name -> the samples of each prompt; those of a server come from its cache of replies."""
        if self.served is None:
            assert self.start is not None  # without a server every model is loaded here
            return {
                name: self.store[self._samples_key(self.start, subject, sampled)] for name, subject in subjects.items()
            }
        source = copy.copy(self.served)
        source.decoding = replace(source.decoding, temperature=1.0, max_new_tokens=self.tokens)
        source.generated = {}
        samples: dict[str, list[list[str]]] = {}
        for name, subject in subjects.items():
            # The number of the sample in the key keeps the replies apart.
            columns = [
                source.of(subject.model, f"{subject.weights}, sample {number}", sampled) for number in range(SAMPLES)
            ]
            samples[name] = [[answer.text for answer in row] for row in zip(*columns, strict=True)]
        return samples


def general_kinds(oracle: "Oracle | None") -> dict[str, tuple[str, ...]]:
    """Return kind -> general prompts in the language of the model that the oracle reads; without one in English."""
    short, others = (GENERAL_PROMPTS, OPEN_PROMPTS) if oracle is None else (oracle.general_prompts, oracle.open_prompts)
    return ({GENERAL: short} if short else {}) | dict(others)


def condition_of(
    prompts: Sequence[EvaluationPrompt],
    subject: Subject,
    qualities: Sequence[AnswerQuality],
    samples: Sequence[Sequence[str]],
    own: Sequence[OwnAnswer],
    shifts: Sequence[Shift] | None,
) -> Condition:
    """Return the figures of one model; those without any value to take them from are None."""
    texts = [answer.text for answer in subject.answers]
    pairs = list(zip(prompts, texts, strict=True))
    other = [found for prompt, text in pairs if (found := in_other_language(prompt.text, text)) is not None]
    by_kind = _shifts_by_kind(own, shifts or ())
    distances = {kind: distance_of(rows) for kind, rows in by_kind.items()}
    oracle, questions = subject.taste.oracle, [prompt.text for prompt in prompts]
    return Condition(
        **(summarize_quality(qualities) if qualities else {}),
        distance=distances.get(GENERAL),
        by_kind={kind: distance for kind, distance in distances.items() if distance is not None},
        log_probability=log_probability_of(by_kind.get(GENERAL, [])),
        diversity=_mean(len({text.strip() for text in row}) / len(row) for row in samples),
        distinct_phrases=_mean(filter(None, map(_distinct_phrases, samples))),
        words=_mean(len(text.split()) for text in texts),
        refusals=_mean(map(declines, texts)),
        other_language=_mean(other),
        language_read=len(other) or None,
        malformed=None if oracle is None or not texts else 1 - oracle.summarize(questions, texts)["validity"],
        fits=None if oracle is None else [oracle.fits(text, prompt.text) for prompt, text in pairs],
    )


def _shifts_by_kind(own: Sequence[OwnAnswer], shifts: Sequence[Shift]) -> dict[str, list[Shift]]:
    """Return kind of prompt -> shifts. Kinds with few answers are one kind together, left out if it has few as well.

    Of a style that few answers fit, a kind may have a single short one, whose distance means nothing.
    """
    by_kind: dict[str, list[Shift]] = {}
    for answer, shift in zip(own, shifts, strict=False):
        by_kind.setdefault(answer.kind, []).append(shift)
    enough = {kind: rows for kind, rows in by_kind.items() if kind == GENERAL or len(rows) >= MIN_KIND_ANSWERS}
    others = [shift for kind, rows in by_kind.items() if kind not in enough for shift in rows]
    return enough | ({OTHER_KINDS: others} if len(others) >= MIN_KIND_ANSWERS else {})


def _distinct_phrases(samples: Sequence[str]) -> float | None:
    """Return the share of distinct sequences of three words in the samples of one prompt; None without any."""
    phrases: list[tuple[str, ...]] = []
    for text in samples:
        words = _WORD.findall(text.lower())
        phrases += zip(*(words[start:] for start in range(_PHRASE)), strict=False)
    return len(set(phrases)) / len(phrases) if phrases else None


def _mean(values: Iterable[float]) -> float | None:
    numbers = [float(value) for value in values]
    return fmean(numbers) if numbers else None


def _fits_all(oracles: Sequence["Oracle | None"], answer: OwnAnswer) -> bool:
    """Return whether an answer fits every style: training is meant to change the others."""
    return all(oracle is None or oracle.fits(answer.text, answer.prompt) for oracle in oracles)
