"""The model that a run started from: it scores the policy's answers, and its own answers show how far the policy moved.

It is the teacher where that one never changes, and otherwise a copy of its own in evaluation mode. With an adapter it
is the policy with the adapter disabled, so it takes no memory.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdpo.method.comparison import Comparison
from sdpo.method.objective import row_mean
from sdpo.method.scoring import Scores, score_hidden
from sdpo.method.teacher import Teacher
from sdpo.models.answer_quality import (
    AnswerQuality,
    measure_quality,
    measure_surprise,
    summarize_quality,
    surprise_of,
)
from sdpo.models.general_answers import (
    GENERAL_SAMPLES,
    GENERAL_TOKENS,
    GeneralAnswers,
    compare_with_start,
    distance_of,
    measure_shifts,
    sample_general_answers,
    tokenized,
)
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.hindsight import HindsightTemplate, with_hindsight
from sdpo.text.prompts import GENERAL_PROMPTS, REHEARSAL_PROMPTS, Message
from sdpo.users.oracle import Oracle

GENERAL_FILE, REHEARSAL_FILE = "general-answers.json", "rehearsal-answers.json"
_AT_ONCE = 128  # answers that are generated in one batch


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

    def surprise_of_hidden(self, hidden: Sequence[Tensor], completions: Sequence[list[int]]) -> list[float]:
        """Return the surprise of completions from this model's hidden states, (T, H) per row: no forward pass."""
        return surprise_of(score_hidden(self.model.projection(), hidden, completions)).tolist()

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
        if not prompts:
            return GeneralAnswers([], [])
        answers = sample_general_answers(
            policy, self.tokenizer, prompts, GENERAL_SAMPLES, GENERAL_TOKENS, _AT_ONCE, seed
        )
        kept = [row for row in answers if oracle is None or oracle.fits(row[1], row[0])]
        own: GeneralAnswers = gather_object([tokenized(self.tokenizer, kept)])[0]
        if main:
            run.write_json(file, asdict(own))
        return own

    def compare(self, policy: nn.Module, prompts: list[list[int]], completions: list[list[int]]) -> Comparison:
        """Return the policy's scores of completions and KL(start ‖ policy) at each position, which carries gradient."""
        hidden = self.model.hidden(prompts, completions, self.batch_size)
        return compare_with_start(policy, self.model.projection(), hidden, prompts, completions)

    def distance(self, policy: nn.Module) -> float | None:
        """Return KL(start ‖ policy) in nats, the mean over the tokens of the general answers; None without any."""
        return distance_of(measure_shifts(policy, self.general, self.batch_size, self.compare))

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
