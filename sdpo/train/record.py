"""What one process did in one optimizer step, whatever the trainer."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sdpo.method.loss import LossResult

COMPLAINT_NATS = -3.0  # nats: in hindsight a token is less than a twentieth as probable
SAMPLES_PER_STEP = 4  # interactions of a step that are kept in full


@dataclass
class StepRecord:
    """What one process did in one optimizer step; sums, so that processes can be added up.

    `satisfied` users are those, of the `judged`, whose hindsight made no token much less probable. `stated_satisfied`
    ones said so in words that an oracle can read; None without one. `unmoved` answers had a usable follow-up that
    moved none of their tokens by FOCUS.
    """

    rows: int = 0
    usable: int = 0
    unmoved: int = 0
    empty: int = 0
    too_long: int = 0
    truncated: int = 0
    tokens: float = 0.0
    loss: float = 0.0
    micro_batches: int = 0
    signal: float = 0.0
    signal_size: float = 0.0
    judged: float = 0.0
    satisfied: float = 0.0
    stated_satisfied: int | None = None
    repetition: float = 0.0
    entropy: float = 0.0
    forwards: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("generation", "user", "scoring"), 0.0))
    completions: list[str] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)

    def add(self, result: LossResult, usable_B: Tensor) -> dict[str, float]:
        """Add a micro-batch, and return its means per token for a tracker; of signals only the usable rows'."""
        usable_B1, mask_BT = usable_B.float()[:, None], result.scores.mask_BT
        tokens = mask_BT.sum().item()
        # Hindsight that takes a word back is a complaint. Not the sum over the answer: against a frozen teacher that
        # falls with all that the policy has learned.
        kept_B = (result.signal_BT * mask_BT).amin(1) > COMPLAINT_NATS
        self.judged += usable_B.sum().item()
        self.satisfied += (kept_B & usable_B).sum().item()
        sums = {
            "signal": (result.signal_BT * usable_B1).sum().item(),
            "signal_size": (result.signal_BT.abs() * usable_B1).sum().item(),
            "entropy": (result.scores.entropy_BT * mask_BT).sum().item(),
        }
        for name, value in {"tokens": tokens, **sums}.items():
            setattr(self, name, getattr(self, name) + value)
        self.forwards += 1
        self.micro_batches += 1
        self.loss += result.loss.item()
        return {name: value / tokens for name, value in sums.items()}

    def sample(
        self, texts: list[dict], completions: list[list[int]], result: LossResult, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Keep a few interactions of the step in full: `texts` says what was asked, answered and replied."""
        for row in range(min(SAMPLES_PER_STEP - len(self.samples), len(completions))):
            ids = completions[row]
            tokens = [tokenizer.decode([token]) for token in ids]
            signal = [round(value, 4) for value in result.signal_BT[row, : len(ids)].tolist()]
            self.samples.append({**texts[row], "tokens": tokens, "signal": signal})

    @staticmethod
    def rows_not_finite(texts: list[dict], completions: list[list[int]], result: LossResult) -> list[dict]:
        """Return the interactions with a value that is not finite, each token's signal and log-probability beside it.

        All of them where no row's own values tell: then it is the weights.
        """
        logps_BT, signal_BT = result.scores.logps_BT.detach(), result.signal_BT
        bad_B = ~(torch.isfinite(logps_BT) & torch.isfinite(signal_BT)).all(1)
        rows = bad_B.nonzero().flatten().tolist() or range(len(completions))
        return [
            {
                **texts[row],
                "completion_ids": completions[row],
                "log_probabilities": [repr(value) for value in logps_BT[row, : len(completions[row])].tolist()],
                "signal": [repr(value) for value in signal_BT[row, : len(completions[row])].tolist()],
            }
            for row in rows
        ]

    def timed(self, part: str) -> "Timer":
        """Return a context that adds the seconds spent inside to a part of the step."""
        return Timer(self.seconds, part)


class Timer:
    """Adds the seconds spent inside to `seconds[part]`, the device's queue included."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self.seconds, self.part = seconds, part

    def __enter__(self) -> None:
        self.started = _now()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.part] += _now() - self.started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
