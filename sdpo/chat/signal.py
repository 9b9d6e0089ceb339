"""What a follow-up says about every token of the answer before it, by a model that is loaded in this process."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdpo.chat.conversation import Interaction
from sdpo.errors import SettingError
from sdpo.llm.thoughts import without_thoughts
from sdpo.settings.inputs import read_template
from sdpo.signal.colours import limit_of

if TYPE_CHECKING:
    from sdpo.settings import ChatSettings
    from sdpo.signal.loaded_model import LoadedModel

NO_MODEL = "/signal needs a model in this process. Start the chat with MODEL=..., a hub name or a folder."
NO_FOLLOW_UP = "there is no follow-up yet: answer the model, then see what your message says about its words."


@dataclass(frozen=True)
class Signal:
    """The tokens of an answer and log π(y | x, o) − log π(y | x) of each; `limit` is that of their colour scale."""

    tokens: list[str]
    values: list[float]
    limit: float

    @property
    def size(self) -> float:
        """The mean |signal| per token, in nats."""
        return sum(map(abs, self.values)) / max(len(self.values), 1)


class SignalScorer:
    """Scores answers with MODEL, which is loaded at the first use. It may be used from several threads."""

    def __init__(self, settings: "ChatSettings") -> None:
        self.settings = settings
        self._model: LoadedModel | None = None
        self._lock = threading.Lock()

    @property
    def usable(self) -> bool:
        """Whether MODEL is set."""
        return self.settings.model is not None

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def score(self, interaction: Interaction) -> Signal:
        """Return the signal of an interaction.

        Raises SettingError if MODEL is not set or cannot be used, or if the conversation is too long for it.
        """
        name = self.settings.model
        if name is None:
            raise SettingError(NO_MODEL)
        from sdpo.signal.loaded_model import LoadedModel, signal_of

        settings = self.settings
        template = read_template(settings.hindsight_template, settings.hindsight_file)
        with self._lock:
            if self._model is None:
                self._model = LoadedModel.load(name, settings.precision, 2)
            model = self._model
            # As in training: thoughts are no part of an answer.
            answer = without_thoughts(interaction.answer)
            if not answer:
                raise SettingError("the answer before your last message is nothing but thoughts: it has no signal.")
            completion = model.completion(answer, interaction.finished)
            bare = model.context(interaction.prompt)
            shown = model.context(interaction.prompt, interaction.follow_up, template)
            if len(shown) + len(completion) > model.max_length:
                raise SettingError(
                    f"the conversation has {len(shown) + len(completion)} tokens, and MODEL={name} takes "
                    f"{model.max_length}. Start a /new one."
                )
            without, with_follow_up = model.logps([bare, shown], [completion, completion])
        values = signal_of(with_follow_up, without)
        return Signal(model.pieces(completion), values, limit_of(values))
