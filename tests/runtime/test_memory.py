"""Running out of memory ends a job in one line that says which of its settings to change."""

import sys

import pytest
import torch

from sdpo.runtime.launch import Job, main
from sdpo.runtime.memory import advice, out_of_memory
from sdpo.runtime.processes import ACCELERATE
from sdpo.settings import CommonSettings, EvalSettings, OfflineSettings, OnlineSettings

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b"
)


def test_a_job_that_runs_out_of_memory_ends_in_one_line(tmp_path, capsys):
    job = Job(
        name="train-offline", summary="", settings=OfflineSettings, run="tests.gpu_checks.samples:run_out_of_memory"
    )
    assert main(job, ["--bs", "8", "--ga", "2", "--output-dir", str(tmp_path / "run")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 1
        and lines[0].startswith("error: ")
        and "ran out of memory: 2.50 GiB more did not fit" in lines[0]
    )
    for part in ("BS=4 GA=4 (now BS=8 GA=2)", "MAX_CONTEXT_TOKENS (now 2048)", "ADAPTER=lora", "fsdp2.yaml"):
        assert part in lines[0]
    assert "GRADIENT_CHECKPOINTING" not in lines[0]  # it is on


@pytest.mark.parametrize(
    ("settings", "named", "not_named"),
    [
        (OfflineSettings(bs=1), ["MAX_CONTEXT_TOKENS", "ADAPTER=lora"], ["BS=", "resumed"]),
        (OfflineSettings(bs=3), ["BS=1 (now BS=3 GA=1)"], ["GA=2", "resumed"]),
        (OnlineSettings(gradient_checkpointing=False), ["BS=2 GA=2", "GRADIENT_CHECKPOINTING=1"], ["CONTEXT"]),
        (OnlineSettings(adapter="lora"), ["ADAPTER=qlora", "resumed with the first"], ["ADAPTER=lora", "EVAL_BATCH"]),
        (OnlineSettings(adapter="qlora", eval_n=8), ["EVAL_BATCH_SIZE (now 16)"], ["ADAPTER", "fsdp2.yaml"]),
        (OnlineSettings(optimizer="adamw_8bit"), ["OPTIMIZER=auto ACCELERATE_CONFIG="], []),
        (OnlineSettings(adapter="lora", accelerate_config=ACCELERATE / "fsdp2.yaml"), ["BS="], ["qlora"]),
        (EvalSettings(), ["EVAL_BATCH_SIZE", "JUDGE_BATCH_SIZE (now 8)"], ["GA"]),
        (CommonSettings(), ["smaller model"], ["Lower"]),
    ],
)
def test_the_advice_is_about_settings_that_the_job_has(settings, named, not_named):
    text = advice(settings)
    assert all(part in text for part in named) and not any(part in text for part in not_named), text


def test_other_errors_are_left_as_they_are(monkeypatch):
    settings = OfflineSettings()
    assert "machine ran out of memory" in out_of_memory(CPU, settings)
    assert out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), settings)
    assert out_of_memory(CUDA, settings)
    for error in (RuntimeError("shapes do not match"), ValueError("CUDA error: out of memory"), KeyError("x")):
        assert out_of_memory(error, settings) is None
    monkeypatch.delitem(sys.modules, "torch")
    assert out_of_memory(CUDA, settings) is None
