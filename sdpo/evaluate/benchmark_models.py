"""The models of an evaluation as lm-eval sees them, each request computed only once.

A reply is stored under a key of everything it depends on: the weights, the precision, the tokenizer, lm-eval's version
and the request itself, which holds the item, its examples and the chat template. So a later evaluation computes only
what is new, whatever task or limit it comes from, and an interrupted one loses at most one batch. Metrics are computed
from the replies each time.

lm-eval runs in the main process alone. The others wait in `LocalReplies.serve` for their share of the requests.
"""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from lm_eval import __version__ as lm_eval_version
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from sdpo import progress
from sdpo.evaluate.models import EvaluatedModel, ModelCache, tokenizer_of
from sdpo.evaluate.store import Store, key_of
from sdpo.text.template import fold_system, template_facts

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here: a model that is loaded already

_KINDS = {
    "loglikelihood": "scoring continuations",
    "loglikelihood_rolling": "scoring texts",
    "generate_until": "answers",
}
Ask = Callable[[str, list[tuple]], list]


class ModelOfReplies(LM):
    """A model for lm-eval whose replies come from `ask(kind, arguments)`, and whose chat template is `template`."""

    tokenizer_name = ""  # only for lm-eval's own cache of requests, which is not used

    def __init__(self, ask: Ask, template: Callable[[list[dict], bool], str]) -> None:
        super().__init__()
        self._ask, self._template = ask, template

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and whether greedy decoding gives it."""
        return [(value, greedy) for value, greedy in self._ask("loglikelihood", [one.args for one in requests])]

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text."""
        return self._ask("loglikelihood_rolling", [one.args for one in requests])

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Return the text generated for each request."""
        return self._ask("generate_until", [one.args for one in requests])

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """Return the messages as the text of a request."""
        return self._template(chat_history, add_generation_prompt)


class LocalReplies:
    """Replies of models loaded in this job; the requests are divided among the processes.

    `computed` is model name -> number of replies computed by this evaluation, without those already stored.
    """

    def __init__(self, store: Store, model_cache: ModelCache, state: PartialState, batch_size: int) -> None:
        self.store, self.model_cache, self.state, self.batch_size = store, model_cache, state, batch_size
        self.computed: Counter[str] = Counter()
        self._loaded: tuple[str, HFLM] | None = None

    def model(self, model: EvaluatedModel, weights: str) -> ModelOfReplies:
        """Return the model for lm-eval; it is loaded with the first request that is not stored. Main process only."""
        tokenizer = tokenizer_of(model)
        identity = [lm_eval_version, weights, str(self.model_cache.dtype), _digest(tokenizer)]
        return ModelOfReplies(
            lambda kind, arguments: self._replies(model, identity, kind, arguments),
            lambda messages, answer_next: chat_text(tokenizer, messages, answer_next),
        )

    def serve(self) -> None:
        """Compute this process's share of each request until the main process finishes. Not on the main process."""
        while (work := self._broadcast(None)) is not None:
            self._compute(*work)

    def finish(self) -> None:
        """End `serve` on the other processes, and free the model here."""
        self._broadcast(None)
        self._loaded = None

    def _replies(self, model: EvaluatedModel, identity: list[str], kind: str, arguments: list[tuple]) -> list:
        seen: Counter[str] = Counter()
        keys: list[str] = []
        for text in map(_text, arguments):
            keys.append(key_of("lm-eval", *identity, kind, text, seen[text]))
            seen[text] += 1  # several samples for one prompt are several replies
        missing = [(key, one) for key, one in zip(keys, arguments, strict=True) if key not in self.store]
        if missing:
            self.computed[model.name] += len(missing)
            self._compute(*self._broadcast((model, kind, missing)))
        return [self.store[key] for key in keys]

    def _broadcast(self, work: Any) -> Any:
        holder = [work]
        broadcast_object_list(holder)
        return holder[0]

    def _compute(self, model: EvaluatedModel, kind: str, missing: Sequence[tuple[str, tuple]]) -> None:
        """Compute and store the missing replies. Collective: every process computes its share and gets all."""
        own = missing[self.state.process_index :: self.state.num_processes]
        new = self._compute_own(model, kind, own) if own else {}
        for values in gather_object([new]):
            self.store.merge(values)

    def _compute_own(self, model: EvaluatedModel, kind: str, own: Sequence[tuple[str, tuple]]) -> dict[str, Any]:
        if self._loaded is None or self._loaded[0] != model.name:
            self._loaded = None  # before the next one is loaded
            self._loaded = (model.name, self._load(model))
        language_model = self._loaded[1]
        torch.manual_seed(DEFAULT_OTHER_SEED + self.state.process_index)
        requests = [Instance(kind, {}, arguments, number) for number, (_, arguments) in enumerate(own)]
        with progress.task(f"{model.name}: {_KINDS[kind]}", len(own), "requests") as under:
            language_model.set_cache_hook(_StoreEachReply(self.store, own, under))
            values = getattr(language_model, kind)(requests, disable_tqdm=True)
        new = {key: value for (key, _), value in zip(own, values, strict=True)}
        self.store.add(new)
        return new

    def _load(self, model: EvaluatedModel) -> HFLM:
        weights, tokenizer = self.model_cache.load(model), tokenizer_of(model)
        return HFLM(pretrained=weights, tokenizer=tokenizer, batch_size=self.batch_size, enable_thinking=False)


class _StoreEachReply:
    """lm-eval's hook that gets each reply as soon as it is computed."""

    def __init__(self, store: Store, requests: Sequence[tuple[str, tuple]], under: progress.Task) -> None:
        self._store, self._under = store, under
        self._keys: defaultdict[str, list[str]] = defaultdict(list)
        for key, arguments in requests:
            self._keys[_text(arguments)].append(key)

    def add_partial(self, kind: str, arguments: tuple, value: Any) -> None:
        """Store a reply. One to a request that is not known here is stored with the others, at the end."""
        if keys := self._keys.get(_text(arguments)):
            self._store.add({keys.pop(0): value})
        self._under.advance()


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict], answer_next: bool) -> str:
    """Return the messages in the tokenizer's chat template, with thinking disabled.

    With `answer_next` the text ends where the answer begins, else within the last message, which the model continues.
    """
    facts = template_facts(tokenizer)
    text: Any = tokenizer.apply_chat_template(  # a string, because of tokenize=False
        messages if facts.takes_system else fold_system(messages),
        tokenize=False,
        add_generation_prompt=answer_next,
        continue_final_message=not answer_next,
        enable_thinking=False,
    )
    return text + facts.closing if answer_next else text


def _digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what the tokenizer does to a text."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if hasattr(backend, "to_str") else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _text(arguments: tuple) -> str:
    return json.dumps(arguments, sort_keys=True, default=str)
