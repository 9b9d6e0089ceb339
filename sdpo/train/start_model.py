"""The model that a run started from: it scores the policy's answers, and its own answers show how far the policy moved.

It is the teacher where that one never changes, and otherwise a copy of its own in evaluation mode. With an adapter it
is the policy with the adapter disabled, so it takes no memory.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdpo.method.comparison import Comparison, compare
from sdpo.method.objective import divergence, row_mean
from sdpo.method.scoring import Scores
from sdpo.method.teacher import Teacher
from sdpo.models.answer_quality import AnswerQuality, measure_quality, measure_surprise, summarize_quality
from sdpo.models.generate import generate
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.hindsight import HindsightTemplate, with_hindsight
from sdpo.text.prompts import GENERAL_PROMPTS, REHEARSAL_PROMPTS, Message
from sdpo.users.oracle import Oracle

GENERAL_FILE, REHEARSAL_FILE = "general-answers.json", "rehearsal-answers.json"
GENERAL_TOKENS = 32  # the maximum length of an answer to a general prompt
GENERAL_SAMPLES = 2  # answers to each general prompt
_AT_ONCE = 128  # answers that are generated in one batch


@dataclass(frozen=True)
class GeneralAnswers:
    """The start model's answers to general prompts as token ids: those that the style leaves as they are."""

    prompts: list[list[int]]
    completions: list[list[int]]


class StartModel:
    """Scores completions with the weights that the run started from.

    `wish` is the style in the user's words, None if not known; `template` shows it. `model` must have been prepared
    like a teacher.
    """

    def __init__(
        self,
        model: Teacher,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        wish: str | None,
        template: HindsightTemplate,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.wish, self.template = wish, template
        self.general = self.rehearsal = GeneralAnswers([], [])

    def score(self, contexts: list[list[int]], completions: list[list[int]]) -> Scores:
        """Return the scores of completions with the entropy of each position."""
        return self.model.score(contexts, completions, self.batch_size, entropy=True)

    def with_wish(self, messages: list[Message]) -> list[Message]:
        """Return the prompt with the wish shown in hindsight; as it is if the wish is not known."""
        return messages if self.wish is None else with_hindsight(messages, self.wish, self.template)

    def quality(self, prompts: Sequence[list[Message]], completions: Sequence[list[int]]) -> list[AnswerQuality]:
        """Return the quality of the policy's completions (token ids), see `sdpo.models.answer_quality`."""
        return measure_quality(self.score, self.tokenizer, prompts, completions, self.wish, self.template)

    def surprise(
        self, prompts: Sequence[list[Message]], completions: Sequence[list[int]], shown: bool = False
    ) -> list[float]:
        """Return the surprise of each of the policy's completions, with `shown` where the prompt has the wish in it.

        See `sdpo.models.answer_quality`, where it is the lower of the two.
        """
        contexts = [self.with_wish(messages) for messages in prompts] if shown else prompts
        return measure_surprise(self.score, self.tokenizer, contexts, completions)

    def answer_general_prompts(
        self, policy: Any, run: RunDirectory, main: bool, oracle: Oracle | None, seed: int
    ) -> None:
        """Read the general answers of the run directory, or sample them from a policy that is still untrained."""
        texts = oracle.general_prompts if oracle is not None else GENERAL_PROMPTS
        self.general = self._own_answers(texts, GENERAL_FILE, policy, run, main, oracle, seed)

    def answer_rehearsal_prompts(
        self,
        policy: Any,
        run: RunDirectory,
        main: bool,
        oracle: Oracle | None,
        seed: int,
        prompts: Sequence[str] | None = None,
    ) -> None:
        """Do the same for the answers that are trained on; `prompts` are the user's own, if there are any.

        The shipped ones are others than those that the distance is measured on.
        """
        shipped = oracle.rehearsal_prompts if oracle is not None else REHEARSAL_PROMPTS
        texts = shipped if prompts is None else prompts
        self.rehearsal = self._own_answers(texts, REHEARSAL_FILE, policy, run, main, oracle, seed)

    def _own_answers(
        self,
        prompts: Sequence[str],
        file: str,
        policy: Any,
        run: RunDirectory,
        main: bool,
        oracle: Oracle | None,
        seed: int,
    ) -> GeneralAnswers:
        """Return the answers in a file of the run directory, or sample them and write the file.

        Answers that do not fit the style are left out: training is meant to change these.
        """
        if (saved := run.read_json(file)) is not None:
            return GeneralAnswers(**saved)
        texts = [*prompts] * GENERAL_SAMPLES
        if not texts:
            return GeneralAnswers([], [])
        encoded = [encode_prompt(self.tokenizer, [{"role": "user", "content": text}]) for text in texts]
        answers = generate(
            policy, self.tokenizer, encoded, GENERAL_TOKENS, batch_size=_AT_ONCE, temperature=1.0, seed=seed
        )
        prompt_ids, completions = [], []
        for prompt, ids, answer in zip(texts, encoded, answers, strict=True):
            text, finished = answer
            if text.strip() and (oracle is None or oracle.fits(text, prompt)):
                prompt_ids.append(ids)
                completions.append(encode_answer(self.tokenizer, text, finished))
        own = GeneralAnswers(*gather_object([(prompt_ids, completions)])[0])
        if main:
            run.write_json(file, asdict(own))
        return own

    def compare(self, policy: nn.Module, prompts: list[list[int]], completions: list[list[int]]) -> Comparison:
        """Return the policy's scores of completions and KL(start ‖ policy) at each position, which carries gradient."""
        projection = self.model.projection()

        def from_start(logps_CV: Tensor, ids_C: Tensor, hidden_CH: Tensor) -> tuple[Tensor, Tensor]:
            start_CV = projection.log_softmax(hidden_CH)
            at_ids_C = start_CV.gather(-1, ids_C[:, None]).squeeze(-1)
            return at_ids_C, divergence(logps_CV, start_CV, "forward")

        hidden_NH = torch.cat(self.model.hidden(prompts, completions, self.batch_size))
        return compare(policy, prompts, completions, from_start, hidden_NH)

    @torch.no_grad()
    def distance(self, policy: nn.Module) -> float | None:
        """Return KL(start ‖ policy) in nats, the mean over the tokens of the general answers; None without any."""
        total, tokens = 0.0, 0
        was_training = policy.training
        policy.eval()
        for first in range(0, len(self.general.prompts), self.batch_size):
            rows = slice(first, first + self.batch_size)
            result = self.compare(policy, self.general.prompts[rows], self.general.completions[rows])
            total += result.divergence_BT.sum().item()
            tokens += int(result.mask_BT.sum())
        policy.train(was_training)
        return total / tokens if tokens else None

    def rehearsal_divergence(self, policy: nn.Module, turn: int) -> Tensor | None:
        """Return KL(start ‖ policy) in nats on the next `batch_size` rehearsal answers; None without any.

        It is the mean over the answers of the mean over each one's tokens. Turn by turn all answers are used.
        """
        count = len(self.rehearsal.prompts)
        if not count:
            return None
        rows = [(turn * self.batch_size + index) % count for index in range(min(self.batch_size, count))]
        result = self.compare(
            policy, [self.rehearsal.prompts[row] for row in rows], [self.rehearsal.completions[row] for row in rows]
        )
        return row_mean(result.divergence_BT, result.mask_BT).mean()


def quality_figures(rows: Sequence[AnswerQuality]) -> dict[str, float]:
    """Return the mean figures over the answers of all processes."""
    everyone: list[AnswerQuality] = gather_object(list(rows))
    return {name: round(value, 4) for name, value in summarize_quality(everyone).items()}
