"""What a run takes besides a device: money for a simulated user behind an API, and disk for checkpoints."""

from dataclasses import dataclass

from sdpo.llm.meter import price_of, read_prices
from sdpo.plan.rows import CHARACTERS, Rows
from sdpo.plan.step import FLOAT, HALF, Step
from sdpo.runtime.disk import CheckpointSize, checkpoint_size, kept_at_once, number_of_checkpoints, optimizer_bytes
from sdpo.settings import OfflineSettings, OnlineSettings
from sdpo.text.prompts import user_messages
from sdpo.users.styles import personas
from sdpo.users.trial import PROBES


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
    """The size of a checkpoint, how many are written and are there at most at a time, and the bytes of other models."""

    size: CheckpointSize
    checkpoints: int
    kept: int
    models: dict[str, float]

    @property
    def total(self) -> float:
        """The bytes of all that is there at a time, at most."""
        return self.size.total * self.kept + sum(self.models.values())


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
    requests = rows.count + measured + (0 if settings.user_trial == "off" else PROBES)
    tokens_in = int(requests * (frame + rows.usual.prompt + rows.usual.completion))
    tokens_out = requests * settings.user_max_tokens
    price = price_of(settings.user_model_name_or_path, read_prices(settings.price_file))
    dollars = price.of(tokens_in, tokens_out) if price else None
    return ApiCost(settings.user_model_name_or_path, requests, tokens_in, tokens_out, dollars)


def disk_of(settings: OnlineSettings | OfflineSettings, step: Step, steps: int) -> Disk:
    """Return the disk that a run's checkpoints take, and the models that are written at the end."""
    shape, teacher = step.shape, 0
    if settings.teacher in ("ema", "gated"):
        stored = shape.parameters + shape.embedding * shape.tied  # tied weights under both of their names
        teacher = (FLOAT if settings.teacher == "ema" or not step.bf16 else HALF) * stored
    optimizer = optimizer_bytes(step.trained, step.in_32_bits, step.eight_bit)
    size = checkpoint_size(FLOAT * step.trained, optimizer, teacher, step.sharded, settings.save_only_model)
    count = number_of_checkpoints(steps, 0, settings.save_steps)
    models = {}
    if settings.adapter != "none" and (settings.merge_adapter or settings.export != "none"):
        models["merged model"] = float(HALF * shape.parameters)
    if settings.export == "gguf":
        models["GGUF"] = float(HALF * shape.parameters)
    return Disk(size, count, kept_at_once(count, settings.save_limit), models)
