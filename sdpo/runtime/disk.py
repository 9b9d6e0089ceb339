"""What the checkpoints of a run take on the disk, by the sizes of its weights: for plans and for the run itself.

Importing this is cheap.
"""

from dataclasses import dataclass

_MOMENT, _EIGHT_BIT_MOMENT = 4, 1  # bytes of one of AdamW's two moments for a weight


@dataclass(frozen=True)
class CheckpointSize:
    """The bytes of one checkpoint: the policy's weights, the optimizer's state and the teacher's own weights."""

    weights: float
    optimizer: float
    teacher: float

    @property
    def total(self) -> float:
        """The bytes of one checkpoint."""
        return self.weights + self.optimizer + self.teacher

    @property
    def parts(self) -> dict[str, float]:
        """What there is of it, by name."""
        named = {"weights": self.weights, "optimizer": self.optimizer, "teacher": self.teacher}
        return {name: size for name, size in named.items() if size}


def checkpoint_size(
    weights: float, optimizer: float, teacher: float, sharded: bool, only_weights: bool
) -> CheckpointSize:
    """Return the size of a checkpoint from the bytes of its parts.

    FSDP (`sharded`) writes the weights once more, to load them from. SAVE_ONLY_MODEL (`only_weights`) leaves that out,
    and the optimizer and the teacher.
    """
    if only_weights:
        return CheckpointSize(weights, 0, 0)
    return CheckpointSize(weights * (2 if sharded else 1), optimizer, teacher)


def optimizer_bytes(trained: int, in_32_bits: int, eight_bit: bool) -> int:
    """Return the bytes of AdamW's two moments for so many trained weights.

    8-bit AdamW keeps those of `in_32_bits` of them, the embedding's above all, in 32 bits.
    """
    large = in_32_bits if eight_bit else trained
    return 2 * (_MOMENT * large + _EIGHT_BIT_MOMENT * (trained - large))


def number_of_checkpoints(steps: int, done: int, every: int) -> int:
    """Return how many checkpoints are still to be written: one every so many steps, and one after the last step."""
    return steps // every - done // every + (steps % every > 0)


def kept_at_once(count: int, limit: int | None) -> int:
    """Return how many of `count` checkpoints there are at most at a time, if `limit` are kept (SAVE_LIMIT)."""
    # The new one is written before the oldest is removed, and the guard keeps the best one as well.
    return min(count, limit + 2) if limit else count
