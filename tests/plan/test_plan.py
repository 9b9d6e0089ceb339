"""The plan of a training job: its shapes, its formulas against what was measured, and the job itself."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config
from trl import GRPOConfig

from jobs import plan as plan_job
from jobs.__main__ import main as sdpo_command
from sdpo.errors import SettingError
from sdpo.models.policy import adapter_config, with_adapter
from sdpo.plan import job as job_of_plan
from sdpo.plan.devices import VLLM_SHARE
from sdpo.plan.fit import FSDP2, fits_of
from sdpo.plan.memory import memory_of
from sdpo.plan.plan import plan_of
from sdpo.plan.shapes import KNOWN_TYPES, Shape, read_shape, shape_of
from sdpo.plan.step import Step
from sdpo.plan.table import table
from sdpo.runtime.launch import main
from sdpo.settings import OfflineSettings
from sdpo.settings.resolve import resolve
from sdpo.tiny import MODEL_DIR
from tests.commands import JOBS, ROOT, clean_environment
from tests.gpus import pretend_gpus

SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 24,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch, tmp_path):
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def plan_with(job: str = "train-offline", **values):
    module = JOBS[f"jobs.{job.replace('-', '_')}"]
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return plan_of(resolve(module.settings, flags, job=job, defaults=module.defaults, tiny=module.tiny))


@pytest.mark.parametrize("kind", [Qwen3Config, Qwen2Config, LlamaConfig])
@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_of_a_shape_and_of_its_adapter_are_those_of_the_model(kind, tied):
    values = SMALL | ({} if kind is not Qwen2Config else {"head_dim": 16})
    config = kind(**values, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        shape = shape_of(config.to_dict(), "M=x")
        assert shape.parameters == model.num_parameters()
        for targets in ("all-linear", "q_proj, down_proj"):
            settings = OfflineSettings(adapter="lora", lora_rank=8, lora_targets=targets)
            adapted = with_adapter(AutoModelForCausalLM.from_config(config), adapter_config(settings), False)
            trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
            assert shape.adapter_parameters(8, targets) == trained


@pytest.mark.parametrize(("model", "billions"), [("Qwen3-0.6B", 0.596), ("Qwen3-1.7B", 1.72), ("Qwen3-4B", 4.02)])
def test_well_known_models_need_no_file(model, billions):
    assert read_shape(f"Qwen/{model}", "MODEL").parameters / 1e9 == pytest.approx(billions, rel=2e-3)
    assert read_shape("Qwen/Qwen3-8B", "MODEL").parameters / 1e9 == pytest.approx(8.19, rel=1e-3)


def test_a_config_in_the_cache_of_the_hub_counts(tmp_path):
    folder = tmp_path / "hub" / "models--some--model"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(SMALL | {"model_type": "llama"}))
    assert read_shape("some/model", "M").hidden == 64


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "qwen3"}', '{"model_type": "mixtral"}', "[]"])
def test_a_shape_that_is_not_to_be_had_is_said_in_one_line(content, tmp_path):
    if content is not None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(content)
    with pytest.raises(SettingError, match=r"MODEL=.*model.* (Give|plan for) ") as caught:
        read_shape("model" if content else "no/model", "MODEL")
    assert "\n" not in str(caught.value)


def gpu_cells() -> list[tuple[str, str, float]]:
    """Return adapter, objective and measured GB of the steps in docs/gpu.md."""
    rows = [line.split("|") for line in (ROOT / "docs" / "gpu.md").read_text("utf-8").splitlines()]
    cells, adapter = [], ""
    for row in rows:
        if len(row) == 8 and row[2].strip() in ("token", "full"):
            adapter = {"LoRA": "lora", "all weights": "none"}.get(row[1].strip(), adapter)
            cells.append((adapter, row[2].strip(), float(row[6])))
    return cells


def test_the_plan_is_within_the_margin_of_what_a_gpu_measured():
    cells = gpu_cells()
    assert len(cells) == 4
    for adapter, objective, peak_gb in cells:
        shape = read_shape("Qwen/Qwen3-0.6B", "M")
        sizes = {"rows": 4, "prompt": 512, "completion": 256, "follow_up": 64, "packed": True}
        step = Step(shape=shape, adapter=adapter, objective=objective, **sizes)
        assert memory_of(step).peak / 1e9 == pytest.approx(peak_gb, rel=0.15), (adapter, objective)


@pytest.mark.slow
def test_the_plan_is_within_the_margin_of_what_this_machine_measures():
    command = [sys.executable, "-m", "benchmarks.plan", "--only", "full-short", "lora-short"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^\S+ +[\d.]+ +[\d.]+ +[+-]", done.stdout, re.M)) == 2


def test_teachers_and_copies_take_what_they_hold():
    def lasting(**values) -> dict:
        return dict(plan_with(world_size=1, **values).memory.lasting)

    full, weights = lasting(guard="off"), read_shape("Qwen/Qwen3-8B", "M").parameters
    assert full["weights"] == 4 * weights and full["teacher"] == full["start model"] == 0
    assert lasting(guard="off", teacher="frozen")["teacher"] == 2 * weights
    assert lasting(guard="off", teacher="ema")["teacher"] == 4 * weights
    assert lasting(guard="stop")["start model"] == 2 * weights
    both = lasting(guard="stop", teacher="frozen")
    assert both["start model"] == 0 and both["teacher"] == 2 * weights
    adapter = lasting(adapter="lora", teacher="frozen")
    assert adapter["teacher"] == adapter["start model"] == 0 and 2 * weights < adapter["weights"] < 2.1 * weights
    assert lasting(adapter="qlora", teacher="frozen")["weights"] < 0.45 * adapter["weights"]
    assert lasting(optimizer="adamw")["optimizer"] == 8 * weights


def test_the_disk_is_that_of_all_that_is_written():
    def disk(**values):
        return plan_with(**{"world_size": 1, "model": "Qwen/Qwen3-4B", "train_jsonl": "none.jsonl"} | values).disk

    shape = read_shape("Qwen/Qwen3-4B", "M")
    weights, embedding = shape.parameters, shape.embedding
    assert disk().size.parts == {"weights": 4 * weights, "optimizer": 2 * weights + 6 * embedding}
    assert disk(save_only_model=1, teacher="ema").size.parts == {"weights": 4 * weights}
    sharded = {"accelerate_config": FSDP2, "world_size": 2}
    assert disk(**sharded).size.parts == {"weights": 8 * weights, "optimizer": 8 * weights}
    assert disk(**sharded, save_only_model=1).size.total == 4 * weights
    assert disk(teacher="gated").size.teacher == 2 * (weights + embedding)
    limited = disk(save_limit=2, save_steps=1)
    assert limited.kept == 4 < limited.checkpoints and limited.total == 4 * limited.size.total
    assert disk(export="gguf").models == {"GGUF": 2 * weights}
    adapter = disk(adapter="lora", export="gguf")
    assert adapter.models == {"merged model": 2 * weights, "GGUF": 2 * weights}
    assert adapter.total == adapter.kept * adapter.size.total + 4 * weights


def test_processes_divide_or_copy_the_weights():
    single, copies = plan_with(world_size=1), plan_with(world_size=4)
    shards = plan_with(world_size=4, accelerate_config=ROOT / "jobs/accelerate/fsdp2.yaml", optimizer="adamw")
    assert copies.memory.peak - single.memory.peak == pytest.approx(4 * single.shape.parameters)  # gradients in transit
    assert shards.memory.lasting["weights"] == pytest.approx(single.memory.lasting["weights"] / 4)
    assert shards.memory.peak < single.memory.peak / 2


@pytest.mark.parametrize("job", ["train-online-tldr", "train-online-helpsteer", "train-offline", "demo-real"])
def test_the_change_that_is_named_makes_it_fit(job):
    plan = plan_with(job)
    changed = 0
    for fit in fits_of(plan):
        for change in filter(None, (fit.change, fit.without_more_gpus)):
            values = dict(word.lower().split("=", 1) for word in change.split())
            if "accelerate_config" in values:
                values["accelerate_config"] = ROOT / values["accelerate_config"]
            again = next(row for row in fits_of(plan_with(job, **values)) if row.size == fit.size)
            assert not fit.fits and again.fits, fit
            changed += 1
    assert changed or fits_of(plan)[0].fits


def test_where_the_change_adds_gpus_another_without_them_is_named_too():
    plan = plan_with("train-offline", world_size=1, adapter="lora")
    small = fits_of(plan)[0]
    assert "GPUS=" in small.change and small.without_more_gpus == "ADAPTER=qlora"
    assert all(fit.without_more_gpus != fit.change or fit.change is None for fit in fits_of(plan))
    assert "or without more GPUs with ADAPTER=qlora" in table(plan, fits_of(plan))


@pytest.mark.parametrize(
    ("values", "change"),
    [
        ({"optimizer": "adamw_8bit"}, "OPTIMIZER=auto ACCELERATE_CONFIG=jobs/accelerate/fsdp2.yaml GPUS=8"),
        ({"optimizer": "adamw_8bit", "max_completion_tokens": 20_000, "adapter": "qlora"}, None),
        ({"model": "Qwen/Qwen3-8B", "world_size": 2, "accelerate_config": FSDP2}, None),
    ],
)
def test_no_change_shards_weights_in_four_bits_or_those_of_8_bit_adamw(values, change):
    given = {"model": "Qwen/Qwen3-4B", "world_size": 1, "bs": 1} | values
    assert fits_of(plan_with(**given))[0].change == change


@pytest.mark.parametrize("values", [{"optimizer": "adamw_8bit"}, {"adapter": "qlora"}])
def test_there_is_no_plan_of_what_fsdp_cannot_shard(values):
    with pytest.raises(SettingError, match="FSDP"):
        plan_with(accelerate_config=FSDP2, **values)


def settings_of_job(name: str, *flags: str):
    job = JOBS[name]
    return job, resolve(job.settings, flags, job=job.name, defaults=job.defaults, dotenv=Path("none"))


def test_what_shares_the_gpu_counts_in_the_warning_and_in_a_dry_run(monkeypatch, tmp_path, capsys):
    flags = ["--model", "Qwen/Qwen3-4B", "--gpus", "1", "--adapter", "lora", "--bs", "16"]
    pretend_gpus(monkeypatch, tmp_path, [24564])
    job, settings = settings_of_job("jobs.train_online_tldr", *flags)
    line = job_of_plan.warning(settings, job)
    assert (
        "beside the simulated user's server" in line
        and "and so does the run with a server elsewhere (SIMULATOR_URL)" in line
    )
    assert main(replace(job, check=None), [*flags, "--dry-run"]) == 0
    assert "fits 24 GB alone, 40 GB beside the user's server" in capsys.readouterr().out
    elsewhere = settings_of_job("jobs.train_online_tldr", *flags, "--simulator-url", "http://gpu7/v1")[1]
    assert job_of_plan.warning(elsewhere, job) is None
    pretend_gpus(monkeypatch, tmp_path, [24564] * 2)  # the second one is the server's
    assert job_of_plan.warning(settings, job) is None


def test_an_engine_beside_the_trainer_counts():
    flags = {"world_size": 1, "adapter": "lora", "model": "Qwen/Qwen3-4B", "simulator_url": "http://gpu7/v1"}
    plain, batching, colocated, served = (
        plan_with("train-online-tldr", generation=name, **flags)
        for name in ("transformers", "continuous_batching", "vllm_colocate", "vllm_server")
    )
    assert plain.step.answers == batching.step.answers > served.step.answers
    assert colocated.needed(80e9) == served.needed(80e9) + VLLM_SHARE * 80e9
    assert GRPOConfig.__dataclass_fields__["vllm_gpu_memory_utilization"].default == VLLM_SHARE
    assert "vLLM takes 30 %" in table(colocated, fits_of(colocated)) and "vLLM" not in table(served, fits_of(served))
    assert "continuous batching" in table(batching, fits_of(batching))


def test_a_plan_is_quick_prints_a_table_writes_json_and_imports_no_torch(tmp_path):
    code = (
        "import sys, jobs.plan\n"
        "code = jobs.plan.plan(['--job', 'train-online-helpsteer', '--train-n', '64', '--scratch', 'runs'])\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for words in ("Qwen/Qwen3-8B: 8.19 billion", "24 GB", "RTX 4090", "requests to claude-haiku", "disk: "):
        assert words in done.stdout
    (path,) = (tmp_path / "runs").rglob("*.json")
    assert path.name == "plan.json" and str(path) in done.stdout.replace("runs/", f"{tmp_path}/runs/")
    content = json.loads(path.read_text("utf-8"))
    assert sum(content["memory"]["parts"].values()) == pytest.approx(content["memory"]["peak"])
    assert content["settings"]["train_n"] == 64 and content["api_cost"]["requests"] == 64 + 20  # the trial's
    assert content["settings"]["anthropic_api_key"] == "redacted"


def test_the_job_to_plan_is_named_by_make_or_a_flag(monkeypatch, capsys):
    monkeypatch.setenv("JOB", "train-offline")
    assert plan_job.plan(["--dry-run"]) == 0 and "train-offline:" in capsys.readouterr().out
    assert plan_job.plan(["--job", "demo-real", "--dry-run"]) == 0 and "demo-real:" in capsys.readouterr().out
    assert plan_job.plan(["--job", "train-ofline"]) == 2
    assert "JOB=train-ofline is no training job. Did you mean train-offline?" in capsys.readouterr().err
    for words in (["JOB=train-offline", "BS=3"], ["--job=train-offline", "--bs", "3"]):
        assert sdpo_command(["plan", *words, "TINY=1", "DRY_RUN=1"]) == 0
        assert "train-offline" in (printed := capsys.readouterr().out) and "a micro-batch: 3 rows" in printed
    assert plan_job.plan(["--train-m", "4"]) == 2 and "--train-m" in capsys.readouterr().err
    assert plan_job.plan(["--model", "no/model"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "MODEL=no/model" in error
    assert not Path("runs").exists()


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_without_a_job_lists_the_jobs_that_can_be_planned(flag, capsys):
    assert plan_job.plan([flag]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith(("  train-", "  demo-"))}
    assert listed == {name: JOBS[f"jobs.{name.replace('-', '_')}"].summary for name in plan_job.TRAINING}
    with pytest.raises(SystemExit) as ended:
        plan_job.plan(["--job", "train-offline", flag])
    assert ended.value.code == 0 and "--train-jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["jobs.train_online_tldr", "jobs.train_offline"])
def test_a_dry_run_has_the_summary(module, capsys):
    job = replace(JOBS[module], check=None)
    assert main(job, ["--tiny", "--dry-run"]) == 0
    lines = capsys.readouterr().out.partition("would take:\n")[2].splitlines()
    assert 2 <= len(lines) <= 4 and lines[0].startswith("  memory of a ") and "disk: " in lines[2]


@pytest.mark.parametrize(("gpus", "machine"), [("1", "one GPU"), ("2", "2 GPUs")])
def test_a_machine_without_a_gpu_is_not_taken_for_one_with(gpus, machine, monkeypatch, tmp_path, capsys):
    job = replace(JOBS["jobs.train_offline"], check=None)
    flags = ["--model", "Qwen/Qwen3-4B", "--gpus", gpus]
    pretend_gpus(monkeypatch, tmp_path, [81559] * 2)
    assert main(job, [*flags, "--dry-run"]) == 0
    assert "visible here" not in capsys.readouterr().out
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(job, [*flags, "--dry-run"]) == 0
    processes = "one process" if gpus == "1" else "2 processes"
    said = f"no GPU is visible here: this command would run {processes} on the CPU, many times slower\n"
    assert f"{said}  on a machine with {machine}:\n  memory of a GPU: " in capsys.readouterr().out
    assert plan_job.plan(["--job", "train-offline", *flags, "--dry-run"]) == 0
    assert f"No GPU is visible here: this is the plan for a machine with {machine}.\n" in capsys.readouterr().out
    # That was asked for. Without any GPU the job itself refuses several processes.
    pretend_gpus(monkeypatch, tmp_path, [])
    assert main(job, [*flags, "--dry-run"]) == 0
    assert ("this command would be refused\n" in capsys.readouterr().out) == (gpus == "2")
    if gpus == "2":
        assert main(job, flags) == 2


def test_rows_that_are_there_give_the_time(tmp_path):
    row = {"prompt": [{"role": "user", "content": "x" * 400}], "completion": "y" * 200, "user_response": "z" * 40}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 640)
    known, unknown = plan_with(train_jsonl=tmp_path / "rows.jsonl"), plan_with(train_jsonl=tmp_path / "none.jsonl")
    assert known.rows.usual.completion == 50 and known.work.steps == 640 // (4 * 8 * 4) * 2
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes((tmp_path / "rows.jsonl").read_text().encode("utf-8-sig"))  # as Notepad saves it
    assert plan_with(train_jsonl=marked).rows.usual == known.rows.usual
    assert known.memory.peak == unknown.memory.peak  # of the longest rows that there can be
    assert known.work.training_flops < unknown.work.training_flops / 10
    assert "does not exist" in unknown.rows.notes[0]
    fewer, more = (plan_with(train_jsonl=tmp_path / "rows.jsonl", train_n=count).rows for count in (64, 1000))
    assert (fewer.count, len(fewer.notes)) == (64, 1)
    assert more.count == 640 and "TRAIN_N=1000, but" in more.notes[1] and "has 640 rows: planned" in more.notes[1]


def test_blank_lines_and_a_byte_order_mark_do_not_hide_the_rows_and_a_fault_is_said(tmp_path):
    row = json.dumps({"prompt": "x" * 400, "completion": "y" * 200, "conversation_id": "c"}) + "\n"
    for number, text in enumerate(("\n" + row * 640 + "\n", "\ufeff" + row * 640)):
        (path := tmp_path / f"{number}.jsonl").write_text(text, "utf-8")
        for holdout in (0, 1e-9):
            rows = plan_with(train_jsonl=path, holdout=holdout).rows
            assert rows.count == 640 and rows.usual.completion == 50 and "lengths of the rows" in rows.notes[0]
    for text, why in (
        ("\n" + row + "{\n", "cannot be read (line 3: "), ('{"a": 1}', "cannot be read (line 1: no prompt)"),
        ("ä", "cannot be read ("), ("\n", "has no rows"),
    ):  # fmt: skip
        path.write_text(text, "latin-1")
        assert plan_with(train_jsonl=path).rows.notes[0].startswith(f"{path} {why}")
        online = plan_with("train-online-helpsteer", train_jsonl=path).rows
        assert online.notes[0].startswith(f"{path} {why}") and "prompts at MAX_PROMPT_TOKENS" in online.notes[0]


@pytest.mark.parametrize("kind", KNOWN_TYPES)
def test_what_a_config_leaves_out_is_the_default_of_its_type(kind):
    given = {"hidden_size": 64, "num_attention_heads": 32, "intermediate_size": 96, "num_hidden_layers": 2}
    given |= {"vocab_size": 130_000, "model_type": kind}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**given))
    assert shape_of(given, "M=x").parameters == model.num_parameters()
    assert shape_of(model.config.to_diff_dict(), "M=x").parameters == model.num_parameters()


def test_the_tiny_model_has_its_own_shape():
    config = AutoConfig.from_pretrained(MODEL_DIR)
    shape = read_shape(str(MODEL_DIR), "M")
    assert isinstance(shape, Shape) and shape.vocabulary == config.vocab_size and shape.layers == 4


@pytest.mark.parametrize(
    ("flags", "mebibytes", "said"),
    [
        (["--model", "Qwen/Qwen3-8B", "--gpus", "4"], 81559, "ACCELERATE_CONFIG=jobs/accelerate/fsdp2.yaml fits"),
        (["--model", "Qwen/Qwen3-4B", "--gpus", "1"], 24564, "ADAPTER=lora fits"),
        (
            ["--model", "Qwen/Qwen3-4B", "--gpus", "1"],
            40960,
            "ACCELERATE_CONFIG=jobs/accelerate/fsdp2.yaml GPUS=4 fits",
        ),
        (["--model", "Qwen/Qwen3-4B", "--gpus", "1", "--adapter", "lora"], 24564, None),
        (["--model", "no/model", "--gpus", "1"], 24564, None),
    ],
)
def test_a_run_that_is_too_large_for_the_gpus_here_is_said_before_it_starts(
    flags, mebibytes, said, monkeypatch, tmp_path
):
    pretend_gpus(monkeypatch, tmp_path, [mebibytes, 99999, 99999, 99999])
    job, settings = settings_of_job("jobs.train_offline", *flags)
    line = job_of_plan.warning(settings, job)
    assert (line is None) == (said is None)
    assert not said or (said in line and f"one here has {mebibytes * 2**20 / 1e9:.0f}" in line and "\n" not in line)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert job_of_plan.warning(settings, job) is None
