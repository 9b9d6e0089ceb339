"""What one device does in an optimizer step, and the bytes that a layer of the model takes for it.

H is the hidden size, q and k the widths of queries and keys, I the inner size.
"""

from dataclasses import dataclass

from sdpo.plan.shapes import Shape

FLOAT, HALF = 4, 2


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one device does in an optimizer step.

    `rows` have these numbers of tokens each, or at most. `masked` says that attention needs a mask, as for packed rows.
    `keeps_start` is the copy of the start model that the guard measures with.
    `answers` are generated at once, 0 offline.
    """

    shape: Shape
    rows: int
    prompt: int
    completion: int
    follow_up: int
    packed: bool = False
    masked: bool = True
    adapter: str = "none"
    rank: int = 32
    targets: str = "all-linear"
    bf16: bool = True
    eight_bit: bool = True
    teacher: str = "live"
    keeps_start: bool = False
    objective: str = "token"
    wide_contrast: bool = False
    checkpointing: bool = True
    accumulates: bool = False
    processes: int = 1
    sharded: bool = False
    answers: int = 0

    @property
    def trained(self) -> int:
        """The number of weights that training changes."""
        if self.adapter == "none":
            return self.shape.parameters
        return self.shape.adapter_parameters(self.rank, self.targets)

    @property
    def in_32_bits(self) -> int:
        """The number of trained weights whose state 8-bit AdamW keeps in 32 bits: those of the embedding."""
        return self.shape.embedding if self.adapter == "none" else 0

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the policy's forward pass on `x, y`."""
        return self.rows * (self.prompt + self.completion)

    @property
    def hindsight_tokens(self) -> int:
        """The tokens of the teacher's forward pass on `x, o, y`."""
        return self.rows * (self.prompt + self.follow_up + self.completion)

    @property
    def answer_tokens(self) -> int:
        """The positions that reach the LM head."""
        return self.rows * self.completion


def value_size(step: Step) -> int:
    """The bytes of a value in a linear layer's input or output."""
    return HALF if step.bf16 else FLOAT


def residual_size(step: Step) -> int:
    """The bytes of a value of the residual stream: autocast leaves it in the dtype of the embedding."""
    return HALF if step.bf16 and step.adapter != "none" and not step.sharded else FLOAT


def saved(step: Step, tokens: int, length: int) -> float:
    """Return what one layer keeps for its backward pass. `length` is the row's that attention sees."""
    shape, adapted = step.shape, step.adapter != "none"
    hidden, wide, narrow, inner = shape.hidden, shape.wide, shape.narrow, shape.inner
    if step.bf16:
        # Norms compute in float32 and keep that; each linear layer gets an input of its own in bf16.
        values = (18 if adapted else 26) * hidden + 10 * wide + (8 if adapted else 10) * narrow + 8 * inner
        masked = 4 * wide - 4 * narrow
    else:
        values = FLOAT * (
            (4 if adapted else 6) * hidden + (3 if adapted else 4) * wide + (3 if adapted else 4) * narrow + 4 * inner
        )
        masked = FLOAT * 2 * (wide - narrow)
    if not shape.normalizes_queries:
        values -= (FLOAT + (0 if adapted else value_size(step))) * (wide + narrow)
    values += value_size(step) * 7 * step.rank if adapted else 0
    values += FLOAT * (2 + 2 * shape.heads + shape.key_heads)
    # With a mask the keys and values are repeated for all heads, and the mask is converted for each layer.
    return tokens * (values + (masked + value_size(step) * length if step.masked else 0))


def passing(step: Step, tokens: int) -> float:
    """Return what one layer holds at most in a forward pass that keeps nothing."""
    shape, value = step.shape, value_size(step)
    attention = 5 * shape.wide + 3 * shape.narrow
    if step.masked:
        attention += 2 * (shape.wide - shape.narrow) + row_length(step, tokens)
    return tokens * (2 * residual_size(step) * shape.hidden + value * max(3 * shape.inner, attention))


def row_length(step: Step, tokens: int) -> int:
    """Return the length of a row as attention sees it: packed rows are one."""
    return tokens if step.packed else tokens // step.rows
