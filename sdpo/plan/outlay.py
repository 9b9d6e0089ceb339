"""What a run takes besides a device: money for a simulated user behind an API, and disk for checkpoints."""

from dataclasses import dataclass

from sdpo.llm.meter import price_of, read_prices
from sdpo.plan.rows import CHARACTERS, Rows
from sdpo.plan.step import FLOAT, HALF, Step
from sdpo.settings import OfflineSettings, OnlineSettings
from sdpo.text.prompts import user_messages
from sdpo.users.styles import personas


@dataclass(frozen=True)
class ApiCost:
    """The requests to a simulated user behind an API, their tokens, and US dollars; None where no price is known."""

    model: str
    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None


@dataclass(frozen=True)
class Disk:
    """The bytes of a checkpoint by part, the number of checkpoints that are kept, and of the merged model."""

    parts: dict[str, float]
    checkpoints: int
    merged: float

    @property
    def each(self) -> float:
        """The bytes of one checkpoint."""
        return sum(self.parts.values())

    @property
    def total(self) -> float:
        """The bytes of all that is kept."""
        return self.each * self.checkpoints + self.merged


def api_cost_of(settings: OnlineSettings | OfflineSettings, rows: Rows, steps: int) -> ApiCost | None:
    """Return what a simulated user behind Anthropic's API costs, with replies at their limit; None for any other user.

    Raises SettingError for a PRICE_FILE that cannot be read.
    """
    if not isinstance(settings, OnlineSettings) or not (settings.asks_user and settings.user_is_claude):
        return None
    persona = personas(settings.style_file).get(settings.style, "")
    messages = user_messages(persona, "", "", settings.user_states_satisfaction)
    frame = sum(len(message["content"]) for message in messages) / CHARACTERS
    measured = (steps // settings.eval_steps) * settings.eval_n if settings.eval_steps else 0
    requests = rows.count + measured
    tokens_in = int(requests * (frame + rows.usual.prompt + rows.usual.completion))
    tokens_out = requests * settings.user_max_tokens
    price = price_of(settings.user_model_name_or_path, read_prices(settings.price_file))
    dollars = price.of(tokens_in, tokens_out) if price else None
    return ApiCost(settings.user_model_name_or_path, requests, tokens_in, tokens_out, dollars)


def disk_of(settings: OnlineSettings | OfflineSettings, step: Step, steps: int) -> Disk:
    """Return the disk that a run's checkpoints take, and the merged model."""
    shape, adapted = step.shape, settings.adapter != "none"
    embedding = 0 if adapted else shape.embedding
    moments = 2 * (step.trained - embedding) + 2 * FLOAT * embedding if step.eight_bit else 2 * FLOAT * step.trained
    parts = {"weights": float(FLOAT * step.trained), "optimizer": float(moments)}
    if settings.teacher in ("ema", "gated"):
        parts["teacher"] = float((FLOAT if settings.teacher == "ema" or not step.bf16 else HALF) * shape.parameters)
    count = -(-steps // settings.save_steps)  # one more at the end, unless it falls on a step that is saved
    kept = min(count, settings.save_limit) if settings.save_limit else count
    merged = float(HALF * shape.parameters) if settings.merge_adapter and adapted else 0.0
    return Disk(parts, kept, merged)
