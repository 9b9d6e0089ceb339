"""The list of checks, in the order in which they run: first what costs little and says whether training is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from sdpo.errors import SettingError, nearest

_HERE = "sdpo.gpu_checks"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `function` is "module:function", called with a Place; it returns figures or raises.

    expected: the seconds that it takes on a GPU; it is not started if fewer are left.
    limit: the seconds after which it is ended.
    alone: whether it is timed, and so runs beside no other.
    gpu: whether it needs a GPU. Others run on a CPU too, on small shapes.
    needs: the packages that it needs.
    """

    name: str
    what: str
    function: str
    expected: float = 20
    limit: float = 150
    alone: bool = False
    gpu: bool = False
    needs: tuple[str, ...] = ()

    def missing(self, on_gpu: bool) -> str | None:
        """Return why the check cannot run here, None if it can."""
        if self.gpu and not on_gpu:
            return "no CUDA device"
        absent = [name for name in self.needs if find_spec(name) is None]
        return f"{', '.join(absent)} not installed" if absent else None


_TRAINING = ("trl", "peft", "datasets", "emoji")
_SERVING = ("openai", "fastapi", "uvicorn", "pydantic", "opentelemetry")

CHECKS: tuple[Check, ...] = (
    Check(name="device", what="a product of matrices", function=f"{_HERE}.device:check_device", alone=True, expected=8),
    Check(name="rows", what="packed rows score as grouped rows do", function=f"{_HERE}.rows:check_scores", expected=15),
    Check(name="online", what="online steps by the job", function=f"{_HERE}.training:check_online", needs=_TRAINING),
    Check(name="offline", what="offline steps by the job", function=f"{_HERE}.training:check_offline", needs=_TRAINING),
    Check(
        name="lora",
        what="an adapter is trained and merged, the rest is not",
        function=f"{_HERE}.adapters:check_lora",
        needs=_TRAINING,
    ),
    Check(
        name="qlora",
        what="an adapter on 4-bit weights is trained",
        function=f"{_HERE}.adapters:check_qlora",
        needs=(*_TRAINING, "bitsandbytes"),
    ),
    Check(
        name="adamw-8bit",
        what="steps of 8-bit AdamW, its state in bytes",
        function=f"{_HERE}.training:check_eight_bit",
        needs=(*_TRAINING, "bitsandbytes"),
    ),
    Check(
        name="resume",
        what="a resumed run equals an uninterrupted one",
        function=f"{_HERE}.resuming:check_resume",
        expected=60,
        limit=200,
        needs=_TRAINING,
    ),
    Check(
        name="fsdp2",
        what="sharded over the GPUs there are, as without",
        function=f"{_HERE}.sharding:check_fsdp2",
        expected=40,
        gpu=True,
        needs=_TRAINING,
    ),
    Check(
        name="out-of-memory",
        what="one line that names the settings to lower",
        function=f"{_HERE}.memory:check_out_of_memory",
        gpu=True,
        needs=_TRAINING,
    ),
    Check(
        name="own-user",
        what="online steps with a user served on the same GPU",
        function=f"{_HERE}.training:check_own_user",
        expected=40,
        needs=(*_TRAINING, *_SERVING),
    ),
    Check(
        name="serving",
        what="32 requests at once to transformers serve",
        function=f"{_HERE}.serving:check_serving",
        expected=40,
        needs=_SERVING,
    ),
    Check(
        name="shape-0.6b",
        what="steps of a Qwen3-0.6B of random weights",
        function=f"{_HERE}.shapes:check_06b",
        alone=True,
        expected=25,
        needs=("peft",),
    ),
    Check(
        name="shape-4b",
        what="steps of a Qwen3-4B of random weights",
        function=f"{_HERE}.shapes:check_4b",
        alone=True,
        expected=40,
        needs=("peft",),
    ),
    Check(
        name="shape-8b",
        what="steps of a Qwen3-8B of random weights",
        function=f"{_HERE}.shapes:check_8b",
        alone=True,
        expected=40,
        needs=("peft",),
    ),
    Check(
        name="continuous-batching",
        what="answers by continuous batching, online steps",
        function=f"{_HERE}.training:check_continuous_batching",
        alone=True,  # it takes most of the memory that is free; on a CPU twelve gigabytes, and a minute
        gpu=True,
        needs=_TRAINING,
    ),
    Check(
        name="rows-speed",
        what="packed and grouped rows, by kind of attention",
        function=f"{_HERE}.rows:check_speed",
        alone=True,
        expected=30,
    ),
    Check(
        name="vllm",
        what="answers by vLLM, online steps",
        function=f"{_HERE}.training:check_vllm",
        expected=60,
        alone=True,
        gpu=True,
        needs=(*_TRAINING, "vllm"),
    ),
)


def chosen(text: str, checks: Sequence[Check] | None = None) -> list[Check]:
    """Return the checks that the setting CHECKS names, in the order of the list. Raises SettingError for others."""
    known = {check.name: check for check in (CHECKS if checks is None else checks)}
    names = text.replace(",", " ").split()
    if names == ["all"]:
        return list(known.values())
    if not names:
        raise SettingError(f"CHECKS={text} names no check. Choose from {', '.join(known)}, or all.")
    for name in names:
        if name not in known:
            raise SettingError(f"CHECKS={name} is unknown.{nearest(name, known)} Choose from {', '.join(known)}.")
    return [check for check in known.values() if check.name in names]
