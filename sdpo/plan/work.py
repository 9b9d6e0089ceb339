"""The work of a run: floating-point operations of its forward and backward passes, and the hours that they take.

Two things measured on a GPU bound a step (`sdpo.plan.devices`): the share of the peak that products of matrices reach,
and the time to launch the kernels of a layer, which dominates for small models and batches. Their sum is the estimate.
"""

from dataclasses import dataclass

from sdpo.plan.devices import DEVICES, LAUNCH, LAUNCH_TOKEN, MATRIX_SHARE, Device
from sdpo.plan.rows import Lengths, Rows
from sdpo.plan.shapes import Shape
from sdpo.settings import OfflineSettings, OnlineSettings


@dataclass(frozen=True)
class Work:
    """The steps of a run, and the operations of one step of one device: of training, and of generating answers.

    `micro_batches` are those of a step, `tokens` the answers' tokens that are generated one after the other in it.
    """

    steps: int
    training_flops: float
    generation_flops: float
    micro_batches: int
    tokens: int

    @property
    def flops(self) -> float:
        """The operations of one device in the whole run."""
        return self.steps * (self.training_flops + self.generation_flops)


def work_of(settings: OnlineSettings | OfflineSettings, shape: Shape, rows: Rows) -> Work:
    """Return the work of a run."""
    per_step = settings.bs * settings.ga
    if isinstance(settings, OfflineSettings):
        epochs, in_epoch = settings.epochs, settings.epoch_steps(rows.count)
    else:
        epochs, in_epoch = settings.iterations, rows.count // settings.step_rows
    steps = max(1, in_epoch) * epochs
    training = per_step * _row_flops(settings, shape, rows.usual)
    generation, tokens = 0.0, 0
    if isinstance(settings, OnlineSettings) and settings.asks_user:
        usual = rows.usual
        generation = per_step * sum(forward_flops(shape, usual.prompt + usual.completion, usual.completion))
        batch = settings.generation_batch or per_step
        # A batch of answers is generated once for all passes over it.
        tokens = int(-(-per_step // batch) * usual.completion / epochs)
        generation /= epochs
    return Work(steps, training, generation, settings.ga, tokens)


def forward_flops(shape: Shape, length: float, predicted: float) -> tuple[float, float, float]:
    """Return the operations of a row's forward pass: of its layers' weights, its attention, its LM head.

    `predicted` is the number of positions that reach the LM head. Causal attention needs half of its square.
    """
    weights = 2.0 * shape.layers * shape.linear_parameters * length
    return weights, 2.0 * shape.layers * shape.wide * length**2, 2.0 * shape.embedding * predicted


def _row_flops(settings: OnlineSettings | OfflineSettings, shape: Shape, row: Lengths) -> float:
    """Return the operations of a row in a step: the teacher's passes, the policy's, its backward pass, the guard's."""
    plain = forward_flops(shape, row.prompt + row.completion, row.completion)
    hindsight = forward_flops(shape, row.prompt + row.follow_up + row.completion, row.completion)
    focus = getattr(settings, "focus", 0.0) > 0
    total = sum(hindsight) * (1 + settings.null_contrast) + sum(plain) * (settings.null_contrast or focus)
    # Under an adapter the weights below have no gradient, which saves half of their share.
    backward = 2.0 if settings.adapter == "none" else 1.0
    weights, attention, head = plain
    total += (weights + head) * (1 + backward) + 3 * attention
    if settings.gradient_checkpointing:
        total += weights + attention
    if settings.guard != "off":
        total += sum(plain)  # the start model's scores of the step's answers
    return total


def seconds_of(settings: OnlineSettings | OfflineSettings, shape: Shape, work: Work, device: Device) -> float:
    """Return the estimated seconds of a step on this device, without the time that a simulated user takes."""
    adapted = settings.adapter != "none"
    training = work.training_flops / (MATRIX_SHARE * device.peak)
    training += work.micro_batches * shape.layers * LAUNCH[adapted]
    if not work.tokens:
        return training
    # For each token all weights are read.
    read = shape.parameters * (2 if adapted else 4) / device.bandwidth
    generation = work.generation_flops / (MATRIX_SHARE * device.peak)
    return training + generation + work.tokens * (read + shape.layers * LAUNCH_TOKEN[adapted])


def hours_of(settings: OnlineSettings | OfflineSettings, shape: Shape, work: Work) -> dict[str, float]:
    """Return the hours of the run by device."""
    return {device.name: work.steps * seconds_of(settings, shape, work, device) / 3600 for device in DEVICES}
