"""The offline job in the tiny world: the loss, the rows, and end-to-end runs."""

import copy
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import TrainingArguments

from benchmarks.counting import counted_passes
from sdpo.errors import RecordError, SdpoError, SettingError
from sdpo.method.objective import Objective
from sdpo.method.scoring import pack_rows, score
from sdpo.method.shared_prefix import takes_trees
from sdpo.method.teacher import Teacher
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import OfflineSettings
from sdpo.text.hindsight import HINDSIGHT
from sdpo.text.records import interaction_lines
from sdpo.tiny.data import logged
from sdpo.train.offline.data import read_rows
from sdpo.train.offline.initial_signal import measure_initial_signal
from sdpo.train.offline.job import check
from sdpo.train.offline.mixture import mix_of
from sdpo.train.offline.tokenized import tokenized
from sdpo.train.offline.trainer import OfflineTrainer, collate
from sdpo.train.offline.truncation import TruncationLimits
from tests import forks
from tests.commands import JOBS
from tests.worlds import environment, rows_of

pytestmark = pytest.mark.slow

SMALL = {"train_n": 96, "epochs": 1, "eval_n": 0, "save_steps": 2, "log_steps": 2, "seed": 7, "holdout_steps": 2}


def write(path, rows):
    """Write interactions and return the path."""
    path.write_text("".join(interaction_lines(rows)), "utf-8")
    return path


def run(out, expect=0, job="train_offline", **settings):
    """Run the job in the tiny world; if the exit code is not the expected one, show the last lines it printed."""
    done = forks.run(command(out, job, **settings), env=environment(), timeout=300)
    tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
    assert done.returncode == expect, f"exit {done.returncode}, expected {expect}\n{tail}"
    return done


def command(out, job, **settings):
    """Return the command line of a small run in the tiny world."""
    given = SMALL | {"output_dir": out, "run_id": "r"} | settings
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", f"jobs.{job}", "--tiny", *flags]


# The loss


@pytest.fixture(scope="module")
def rows(tokenizer, tmp_path_factory):
    """Eight logged conversations, tokenized."""
    folder = tmp_path_factory.mktemp("rows")
    path = write(folder / "logs.jsonl", logged(8, seed=1))
    return list(tokenized(path, "make it", tokenizer, TruncationLimits(256, 48, HINDSIGHT), folder))


def offline_trainer(model, tokenizer, folder, teacher="live", ga=1, **objective):
    """Return a trainer for a copy of the model."""
    policy = copy.deepcopy(model)
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8 // ga, gradient_accumulation_steps=ga, use_cpu=True,
        report_to=[], remove_unused_columns=False,
    )  # fmt: skip
    objective = Objective(centre=False, ignore_first_k=2, **objective)
    return OfflineTrainer(
        model=policy, teacher=Teacher(teacher, policy), objective=objective, args=arguments, processing_class=tokenizer
    )


def reference_gradient(model, rows, sft=False):
    """Return the gradient of the loss, computed row by row from all logits with plain indexing."""
    model = copy.deepcopy(model)
    total = 0.0
    for row in rows:
        columns = {}
        for name in ("context", "hindsight"):
            logits = model(torch.tensor([row[name] + row["completion"]])).logits[0].log_softmax(-1)
            positions = range(len(row[name]) - 1, len(row[name]) + len(row["completion"]) - 1)
            columns[name] = torch.stack([logits[p, t] for p, t in zip(positions, row["completion"], strict=True)])
        signal_T = (columns["hindsight"] - columns["context"]).detach()
        advantages_T = torch.ones_like(signal_T) if sft else signal_T
        total = total - (advantages_T * columns["context"])[2:].mean() / len(rows)
    total.backward()
    return [weight.grad for weight in model.parameters()]


@pytest.mark.parametrize("layout", ["padded", "packed", "accumulated", "shuffled", "sft"])
def test_the_gradient_matches_the_row_by_row_reference(model, tokenizer, rows, tmp_path, layout):
    trainer = offline_trainer(model, tokenizer, tmp_path, kind="sft" if layout == "sft" else "token")
    assert layout != "packed" or pack_rows(trainer.model)
    groups = [rows[:4], rows[4:]] if layout == "accumulated" else [rows[::-1]] if layout == "shuffled" else [rows]
    for group in groups:
        (trainer.compute_loss(trainer.model, collate(group)) / len(groups)).backward()
    expected = reference_gradient(model, rows, sft=layout == "sft")
    assert max(gradient.abs().max() for gradient in expected) > 1e-3
    for weight, gradient in zip(trainer.model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=2e-5, rtol=1e-3)


def test_the_signal_of_a_row_does_not_depend_on_the_other_rows_of_the_batch(model, tokenizer, rows, tmp_path):
    short = min(rows, key=lambda row: len(row["completion"]))
    assert short["completion"][-1] == tokenizer.eos_token_id
    alone, batched = (offline_trainer(model, tokenizer, tmp_path) for _ in range(2))
    alone.compute_loss(alone.model, collate([short]))
    batched.compute_loss(batched.model, collate([short, *[row for row in rows if row is not short]]))
    (first,), second = alone.record.samples[:1], batched.record.samples[0]
    assert len(first["signal"]) == len(short["completion"]) and first["signal"][-1] != 0
    assert first["signal"] == pytest.approx(second["signal"], abs=2e-4)


def test_a_frozen_teachers_log_probabilities_are_reused(model, tokenizer, rows, tmp_path):
    computing, reusing = (offline_trainer(model, tokenizer, tmp_path, teacher="frozen") for _ in range(2))
    loss = computing.compute_loss(computing.model, collate(rows))
    targets = computing._targets(collate(rows)["rows"])
    known = [{**row, "teacher_logps": target.logps_T.tolist()} for row, target in zip(rows, targets, strict=True)]
    torch.testing.assert_close(reusing.compute_loss(reusing.model, collate(known)), loss)
    assert reusing.record.forwards == 1 and computing.record.forwards > 1


def test_the_initial_signal_takes_one_forward_for_both_contexts(model, rows, tmp_path):
    data, run = Dataset.from_list([{**row, "length": len(row["hindsight"])} for row in rows]), RunDirectory(tmp_path)
    takes_trees(model)
    with counted_passes(model) as passes:
        logps, sizes = measure_initial_signal(run, model, data, 3, Accelerator(cpu=True))
    assert passes.forwards == -(-len(rows) // 3) and len(logps) == len(sizes) == len(rows)
    for row, row_logps, size in zip(rows, logps, sizes, strict=True):
        with torch.no_grad():
            contexts = [row["hindsight"]], [row["context"]]
            shown, plain = (score(model, one, [row["completion"]]).logps_BT[0] for one in contexts)
        assert row_logps == pytest.approx(shown.tolist(), abs=2e-4)
        assert size == pytest.approx((shown - plain).abs().mean().item(), abs=2e-4)


# The rows


def settings_for(path, **more):
    """Return settings with the file as TRAIN_JSONL."""
    return OfflineSettings(train_jsonl=path, max_context_tokens=256, max_completion_tokens=48, seed=3, **more)


def test_complete_conversations_are_held_out_and_stay_so_with_more_data(tokenizer, tmp_path):
    first = logged(60, seed=2)
    several = [*first, *[type(row)(**{**vars(row), "id": row.id + "-again", "turn_id": 2}) for row in first]]
    limits = TruncationLimits(256, 48, HINDSIGHT)
    held = []
    for name, rows in (("all", several), ("part", several[:40])):
        path = write(tmp_path / f"{name}.jsonl", rows)
        read = read_rows(settings_for(path, holdout=0.3), "make it", tokenizer, limits, tmp_path)
        trained, out = set(read.training["conversation_id"]), set(read.held_out["conversation_id"])
        assert not trained & out and len(read.training) + len(read.held_out) == len(rows)
        held.append(out)
    assert 6 < len(held[0]) < 30 and held[1] == held[0] & {row.conversation_id for row in several[:40]}


def test_files_are_mixed_by_their_shares(tokenizer, tmp_path):
    first = write(tmp_path / "first.jsonl", logged(300, seed=1))
    second = write(tmp_path / "second.jsonl", [
        type(row)(**{**vars(row), "id": f"other-{row.id}"}) for row in logged(300, seed=2)
    ])  # fmt: skip
    settings = settings_for(first, mix=f"{second}=0.25", train_n=200)
    read = read_rows(settings, "make it", tokenizer, TruncationLimits(256, 48, HINDSIGHT), tmp_path)
    others = sum(name.startswith("other-") for name in read.training["id"])
    assert len(read.training) == 200 and 30 <= others <= 70


@pytest.mark.parametrize("text", ["a.jsonl", "a.jsonl=", "a.jsonl=2", "=0.5", "a.jsonl=0.6 b.jsonl=0.6", "a=0"])
def test_a_malformed_mix_is_a_setting_error(text):
    with pytest.raises(SettingError, match="MIX"):
        mix_of(text)


def test_rows_without_tokens_to_train_on_are_dropped(tokenizer, tmp_path):
    path = write(tmp_path / "logs.jsonl", logged(20, seed=1))
    limits = TruncationLimits(256, 12, HINDSIGHT)
    kept = read_rows(settings_for(path), "make it", tokenizer, limits, tmp_path).training
    complete = read_rows(settings_for(path, mask_truncated=True), "make it", tokenizer, limits, tmp_path).training
    assert 0 < len(complete) < len(kept) == 20 and not any(complete["completion_cut"])


BAD = {
    "missing field": (lambda text: text.replace('"completion": ', '"answer": ', 1), "line 1"),
    "empty completion": (lambda text: text.replace(json.loads(text.splitlines()[1])["completion"], "", 1), "line 2"),
    "wrong roles": (lambda text: text.replace('"role": "user"', '"role": "assistant"', 1), "line 1"),
    "truncated last line": (lambda text: text[:-40], "line 3"),
    "empty file": (lambda text: "", "contains no"),
}


@pytest.mark.parametrize("name", [*BAD, "not UTF-8"])
def test_a_malformed_file_is_an_error_before_a_model_is_loaded(tmp_path, name):
    rows = [row for row in logged(30, seed=4) if "lol" in row.completion][:3]
    path = write(tmp_path / "logs.jsonl", rows)
    if name == "not UTF-8":
        path.write_bytes(path.read_bytes().replace(b"TL;DR", b"\xff\xfe", 1))
        words = "UTF-8"
    else:
        corrupt, words = BAD[name]
        path.write_text(corrupt(path.read_text("utf-8")), "utf-8")
    job = JOBS["jobs.train_offline"]
    settings = settings_for(path, model="no/such-model", world_size=1, bs=1, output_dir=tmp_path / "run")
    with pytest.raises(RecordError, match=words) as caught:
        check(settings, job)
    assert str(path) in str(caught.value) and isinstance(caught.value, SdpoError)
    assert not (tmp_path / "run").exists()


# The job


def test_a_run_measures_held_out_rows_and_prints_an_estimate(tmp_path):
    out = tmp_path / "run"
    done = run(out, eval_n=32, min_signal=0.001, weight_by_signal=1)
    assert "rows, " in done.stdout and "hours" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"] and {"before", "after"} <= set(summary)
    held = rows_of(out / "held_out.jsonl")
    steps = [row["step"] for row in rows_of(out / "metrics.jsonl")]
    assert [row["step"] for row in held] == [0, *[step for step in steps if step % 2 == 0 or step == steps[-1]]]
    assert all(row["signal_size"] > 0 for row in held) and (out / "training.png").stat().st_size > 10_000
    initial = rows_of(out / "starting_signal.jsonl")
    assert len(initial) == 96 and sum(row["signal_size"] >= 0.001 for row in initial) // 16 == len(steps)
    assert rows_of(out / "left_out.jsonl") == []


@pytest.mark.parametrize("teacher", ["live", "frozen"])
def test_a_killed_and_resumed_run_gives_the_same_results(tmp_path, teacher):
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    run(complete, teacher=teacher, epochs=2)
    process = subprocess.Popen(
        command(killed, "train_offline", teacher=teacher, epochs=2), env=environment(), stdout=subprocess.DEVNULL
    )
    metrics = killed / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 7:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The checkpoint is in the middle of the second epoch, so the order of its rows must be the same again.
    last, steps = RunDirectory(killed).last_checkpoint(), rows_of(complete / "metrics.jsonl")[-1]["step"]
    assert steps / 2 < int(last.name.removeprefix("checkpoint-")) < steps
    run(killed, teacher=teacher, epochs=2)
    for name in ("metrics.jsonl", "held_out.jsonl"):
        first, second = rows_of(complete / name), rows_of(killed / name)
        assert [{k: v for k, v in row.items() if k not in ("seconds", "peak_memory_gb")} for row in first] == [
            {k: v for k, v in row.items() if k not in ("seconds", "peak_memory_gb")} for row in second
        ]
    last = f"checkpoint-{rows_of(metrics)[-1]['step']}"
    assert (complete / last / "model.safetensors").read_bytes() == (killed / last / "model.safetensors").read_bytes()


def test_training_on_logs_raises_adherence_to_the_users_style(tmp_path):
    out = tmp_path / "run"
    run(out, train_n=1024, epochs=3, eval_n=512, save_steps=500, holdout=0, holdout_steps=500)
    before, after = (json.loads((out / "summary.json").read_text())[when] for when in ("before", "after"))
    assert before["adherence"] < 0.4 and after["adherence"] >= 0.9 and after["validity"] >= 0.95
    assert abs(after["axes"]["emoji"] - before["axes"]["emoji"]) <= 0.1


def test_fewer_rows_than_one_step_takes_are_refused_before_anything_is_measured(tmp_path):
    path = write(tmp_path / "logs.jsonl", logged(12, seed=5))
    refused = run(tmp_path / "run", train_jsonl=path, min_signal=0, eval_n=8, expect=2)
    assert "fewer than the 16 that one step takes (BS=16 x GA=1 x GPUS=1)" in refused.stderr
    assert "HOLDOUT=0" in refused.stderr
    assert "Traceback" not in refused.stderr and "validation prompts" not in refused.stdout


def test_logs_with_unrelated_follow_ups_change_no_style(tmp_path):
    out, path = tmp_path / "run", write(tmp_path / "logs.jsonl", logged(512, seed=5, unrelated=True))
    refused = run(out, train_jsonl=path, train_n=512, expect=2)
    assert "MIN_SIGNAL=0.05 leaves" in refused.stderr
    out, longer = tmp_path / "all", {"epochs": 2, "eval_n": 512, "save_steps": 500, "holdout": 0, "holdout_steps": 500}
    run(out, train_jsonl=path, train_n=512, min_signal=0, **longer)
    before, after = (json.loads((out / "summary.json").read_text())[when] for when in ("before", "after"))
    assert all(abs(after["axes"][axis] - share) <= 0.1 for axis, share in before["axes"].items())
