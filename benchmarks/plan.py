"""The plan's memory against measured peaks, on the CPU: shapes, lengths, adapters, teachers, objectives.

    python -m benchmarks.plan [--only full-short lora-frozen]

Each cell trains a model of random weights for three steps with the offline trainer, in a process of its own. Its peak
is that of the resident memory above what was there after the imports and three steps of a model of some thousand
weights, so that neither libraries nor what they load on first use are counted. The allocator is set to return what is
freed (MALLOC_MMAP_THRESHOLD_), because else a measured peak depends on how the freed blocks happen to lie.
"""

import argparse
import ctypes
import gc
import importlib
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from sdpo.plan.memory import memory_of
from sdpo.plan.shapes import shape_of
from sdpo.plan.step import Step

MARGIN = 0.15
_STEPS = 3
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
_QWEN3 = {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "deep": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768, "vocab_size": 8192},
    "wide": {"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 1536, "vocab_size": 8192},
    "words": {"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 768, "vocab_size": 65536},
    "narrow-words": {"hidden_size": 128, "num_hidden_layers": 3, "intermediate_size": 384, "vocab_size": 65536},
    "deep-words": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768, "vocab_size": 65536},
}
# Tokens of prompt, answer and follow-up of each of two rows.
LENGTHS = {"short": (96, 64, 32), "middle": (288, 128, 64), "long": (640, 256, 64)}
CELLS: dict[str, dict[str, Any]] = {
    "full-short": {"lengths": "short"},
    "full-middle": {},
    "full-long": {"lengths": "long"},
    "full-checkpointing": {"lengths": "long", "checkpointing": True},
    "full-packed": {"packed": True, "lengths": "short"},
    "full-wide": {"shape": "wide", "lengths": "short"},
    "full-words": {"shape": "deep-words"},
    "full-words-checkpointing": {"shape": "deep-words", "checkpointing": True},
    "full-words-untied": {"shape": "narrow-words", "tied": False, "lengths": "short"},
    "full-words-objective": {"shape": "narrow-words", "objective": "full", "lengths": "short"},
    "full-words-top-k": {"shape": "narrow-words", "objective": "top_k", "lengths": "short"},
    "full-accumulated": {"ga": 2, "lengths": "short"},
    "frozen": {"teacher": "frozen"},
    "ema": {"teacher": "ema"},
    "gated-guard": {"teacher": "gated", "guard": True, "lengths": "short"},
    "lora-short": {"adapter": "lora", "lengths": "short"},
    "lora": {"adapter": "lora"},
    "lora-checkpointing": {"adapter": "lora", "checkpointing": True, "lengths": "long"},
    "lora-words-frozen": {"adapter": "lora", "shape": "words", "teacher": "frozen"},
    "lora-words-objective": {"adapter": "lora", "shape": "narrow-words", "objective": "full", "lengths": "short"},
    "lora-ema": {"adapter": "lora", "teacher": "ema", "lengths": "short"},
}
_MICRO = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 512}
_ROWS = 2
_MARK = " cell "
_MCL_CURRENT, _MCL_ONFAULT = 1, 4


def config_of(cell: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json of a cell's model."""
    shape = cell["config"] if "config" in cell else SHAPES[cell.get("shape", "deep")]
    return {**_QWEN3, **shape, "tie_word_embeddings": cell.get("tied", True)}


def planned(cell: dict[str, Any]) -> float:
    """Return the peak in bytes that the plan has for a cell."""
    prompt, completion, follow_up = LENGTHS[cell.get("lengths", "middle")]
    packed = cell.get("packed", False)
    step = Step(
        shape=shape_of(config_of(cell), "shape=random"),
        rows=_ROWS,
        prompt=prompt,
        completion=completion,
        follow_up=follow_up,
        packed=packed,
        masked=packed,
        adapter=cell.get("adapter", "none"),
        bf16=False,
        eight_bit=False,
        teacher=cell.get("teacher", "live"),
        keeps_start=cell.get("guard", False),
        objective=cell.get("objective", "token"),
        checkpointing=cell.get("checkpointing", False),
        accumulates=cell.get("ga", 1) > 1,
    )
    return memory_of(step).peak


def train(cell: dict[str, Any], out: str) -> None:
    """Train a cell's model with the offline trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, TrainingArguments

    from sdpo.method import scoring
    from sdpo.method.objective import Objective
    from sdpo.method.teacher import Teacher
    from sdpo.models.policy import adapter_config
    from sdpo.settings import OfflineSettings
    from sdpo.tiny import MODEL_DIR
    from sdpo.train.offline.trainer import OfflineTrainer

    torch.manual_seed(0)
    values = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None, "max_position_embeddings": 8192}
    model = Qwen3ForCausalLM(Qwen3Config(**config_of(cell), **values))
    adapted, kind = cell.get("adapter", "none") != "none", cell.get("teacher", "live")
    teacher = Teacher(kind, model, adapter=adapted)
    start = Teacher("frozen", model, adapter=adapted) if cell.get("guard") and kind != "frozen" else None
    if cell.get("packed"):
        assert scoring.pack_rows(model)
    accumulation = cell.get("ga", 1)
    arguments = TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=_ROWS,
        gradient_accumulation_steps=accumulation,
        max_steps=_STEPS,
        optim="adamw_torch_fused",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=cell.get("checkpointing", False),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="random",
    )
    trainer = OfflineTrainer(
        model=model,
        teacher=teacher,
        start=start,
        objective=Objective(kind=cell.get("objective", "token")),
        args=arguments,
        train_dataset=Dataset.from_list(_rows(cell, _ROWS * accumulation * _STEPS)),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
        peft_config=adapter_config(OfflineSettings(adapter=cell.get("adapter", "none"))),
    )
    trainer.train()


def _rows(cell: dict[str, Any], count: int) -> list[dict[str, Any]]:
    rng = Random(0)

    def ids(length: int) -> list[int]:
        return [rng.randrange(3, 400) for _ in range(length)]

    prompt, completion, follow_up = LENGTHS[cell.get("lengths", "middle")]
    rows = []
    for _ in range(count):
        context = ids(prompt)
        row = {"context": context, "hindsight": ids(follow_up) + context, "null": None, "completion": ids(completion)}
        rows.append(row | {"follow_up": "", "completion_cut": False, "length": prompt + completion})
    return rows


def measure(cell: dict[str, Any]) -> float:
    """Return the peak of this process's resident memory while the cell trains, above that before, in bytes."""
    with tempfile.TemporaryDirectory() as out:
        train({**cell, "config": _MICRO, "lengths": "short"}, out)
        gc.collect()
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc_trim(0)
        # On a machine short of memory pages of the libraries would leave, and the peak would lack them. Not every user
        # may lock pages; without it the figures hold on a machine with memory to spare.
        libc.mlockall(_MCL_CURRENT | _MCL_ONFAULT)
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory is counted from here
        before = _status("VmRSS")
        train(cell, out)
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{name}:"))


def measured(names: list[str]) -> Iterator[tuple[str, float]]:
    """Yield the name of each cell and what `measure` returns in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan", "--in-worker", "--only", *names]
    environment = {**os.environ, **_ALLOCATOR, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            name, _, peak = line.partition(_MARK)
            if peak:
                yield name, float(peak)
    if worker.returncode:
        raise RuntimeError("a cell failed: its error is above")


def _in_worker(names: list[str]) -> None:
    """Print what each cell measures, in a copy of this process for each: the imports take longer than the training."""
    warnings.filterwarnings("ignore")
    for module in ("sdpo.train.offline.trainer", "transformers.models.qwen3.modeling_qwen3", "peft.tuners.lora"):
        importlib.import_module(module)
    for name in names:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                print(f"{name}{_MARK}{measure(CELLS[name])}", flush=True)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitpid(process, 0)[1]:
            raise SystemExit(1)


def main() -> None:
    """Measure the cells one after the other, print a line for each, and exit with 1 if one is beyond the margin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--in-worker", action="store_true")
    arguments = parser.parse_args()
    if arguments.in_worker:
        return _in_worker(arguments.only)
    beyond = []
    print(f"{'cell':24}{'measured MB':>12}{'planned MB':>12}{'error':>8}")
    for name, peak in measured(arguments.only):
        plan = planned(CELLS[name])
        print(f"{name:24}{peak / 1e6:12.1f}{plan / 1e6:12.1f}{plan / peak - 1:+8.1%}", flush=True)
        beyond += [name] if abs(plan / peak - 1) > MARGIN else []
    if beyond:
        raise SystemExit(f"beyond {MARGIN:.0%}: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
