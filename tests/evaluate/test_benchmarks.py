"""Benchmarks of an evaluation: the numbers of lm-eval itself, each reply computed once, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sdpo.errors import SettingError
from sdpo.evaluate.benchmark_tasks import OWN_TASKS, check_tasks, load_benchmarks, names_of
from sdpo.settings import EvalSettings
from sdpo.tiny import MODEL_DIR
from tests.evaluations import DONE, EvaluationProcesses, add_checkpoint, arguments, evaluate, make_run, read
from tests.servers import Answer, FakeServer, prompt_of, until
from tests.worlds import environment, rows_of

pytest.importorskip("lm_eval")

# A generation task with a share as its metric, and examples in the prompt where they are asked for. It does not say
# that more is better, and lm-eval does not know.
TASK = """
task: copied_words
custom_dataset: !function words.items
test_split: test
fewshot_split: examples
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
process_results: !function words.share
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 24, do_sample: false}
metric_list:
  - {metric: share, aggregation: mean}
metadata: {version: 2.0}
"""
CODE = """
from datasets import Dataset

POST = "My boss has a {}. Yesterday it kicked my {} in the attic. I feel sad about it.\\nTL;DR:\\n"
WORDS = [(pet, thing) for pet in ("goat", "dog", "pig", "duck") for thing in ("hat", "sofa", "cake")]

def items(**_):
    answers = [f"TL;DR: {pet} kicked my {thing} lol" for pet, thing in WORDS]
    rows = [{"prompt": POST.format(*words), "answer": answer} for words, answer in zip(WORDS, answers)]
    return {"test": Dataset.from_list(rows[2:]), "examples": Dataset.from_list(rows[:2])}

def share(doc, answers):
    words = doc["answer"].split()
    return {"share": sum(word in answers[0] for word in words) / len(words)}
"""


@pytest.fixture
def run(tmp_path):
    """A run with one checkpoint whose weights were moved a little, so that it gets some items wrong."""
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 2, noise=0.046)
    return run


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "copied_words.yaml").write_text(TASK)
    (folder / "words.py").write_text(CODE)
    return folder


@pytest.fixture
def requests(monkeypatch):
    """The number of requests in each call of lm-eval's model."""
    from lm_eval.models.huggingface import HFLM

    sizes = []

    def count(real):
        def counting(self, requests, **named):
            sizes.append(len(requests))
            return real(self, requests, **named)

        return counting

    for kind in ("loglikelihood", "generate_until"):
        monkeypatch.setattr(HFLM, kind, count(getattr(HFLM, kind)))
    return sizes


def settings(**given):
    return replace(EvalSettings(), **given)


def metrics(report, model):
    """Return the value of every metric of a model by task, standard errors among them."""
    return {task: record["metrics"] for task, record in report["benchmark_scores"]["models"][model].items()}


def command(model, folder, out, *flags):
    """Return the metrics by task that lm-eval's own command writes."""
    arguments = f"pretrained={model},dtype=float32,enable_thinking=False"
    subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--device", "cpu",
            "--tasks", "sdpo_tiny,copied_words", "--include_path", str(folder), "--output_path", str(out), *flags,
        ],
        env=environment(), check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    return {task: {key: value for key, value in values.items() if "," in key} for task, values in results.items()}


@pytest.mark.slow
def test_the_numbers_are_those_of_lm_evals_own_command(run, tasks, tmp_path, requests):
    for path in OWN_TASKS.glob("*tiny*"):  # lm-eval's command takes one folder
        (tasks / path.name).write_bytes(path.read_bytes())
    (tasks / "checks.py").write_bytes((OWN_TASKS / "checks.py").read_bytes())
    given = {"benchmarks": "sdpo_tiny,copied_words", "benchmark_tasks": tasks, "benchmark_limit": 8, "eval_n": 2}
    report = evaluate(run, benchmark_chat_template="on", benchmark_shots=2, eval_batch_size=3, **given)
    flags = ["--limit", "8", "--apply_chat_template", "--num_fewshot", "2", "--batch_size", "3"]
    theirs = command(run / "checkpoint-2", tasks, tmp_path / "theirs", *flags)
    assert metrics(report, "checkpoint-2") == theirs
    assert 0 < theirs["sdpo_tiny"]["acc,none"] < 1 and 0 < theirs["copied_words"]["share,none"] < 1
    records = report["benchmark_scores"]["models"]["checkpoint-2"]
    # A task that sets 0 examples keeps them; lm-eval's own rule.
    assert [records[task]["shots"] for task in ("sdpo_tiny", "copied_words")] == [0, 2]
    assert [row["task"] for row in report["benchmarks"]] == ["sdpo_tiny", "copied_words"]
    for row in report["benchmarks"]:
        assert row["value"] == theirs[row["task"]][row["metric"]] and row["items"] == 8
        assert row["difference"] == pytest.approx(row["value"] - row["baseline"], abs=1e-12)
        assert row["higher_is_better"] is True
    page = (run / "eval" / "pairs.html").read_text()
    assert "<td>copied_words</td>" in page and f"{report['benchmarks'][1]['difference']:+.4f}" in page

    # A second evaluation of the same weights computes nothing, and one of more items computes only these.
    requests.clear()
    again = evaluate(run, benchmark_chat_template="on", benchmark_shots=2, eval_batch_size=3, **given | {"eval_n": 1})
    assert requests == [] and again["benchmarks"] == report["benchmarks"]
    assert again["benchmark_scores"]["computed"] == {"baseline": 0, "checkpoint-2": 0}
    more = evaluate(run, benchmarks="sdpo_tiny", benchmark_limit=10, eval_n=1)
    assert requests == [8, 8] and more["benchmarks"][0]["items"] == 10
    # Other weights under the same name are computed anew.
    add_checkpoint(run, 4, noise=0.046)
    (run / "checkpoint-4" / "model.safetensors").replace(run / "checkpoint-2" / "model.safetensors")
    requests.clear()
    evaluate(run, benchmarks="sdpo_tiny", benchmark_limit=10, eval_n=1, ckpts="2")
    assert requests == [40]


@pytest.mark.slow
def test_an_adapter_gets_the_numbers_that_lm_eval_gives_it(run, tmp_path):
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    tiny = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    adapted = get_peft_model(tiny, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    folder = run / "checkpoint-3"
    adapted.save_pretrained(folder)
    from sdpo.runtime.run_directory import RunDirectory

    RunDirectory(run).mark_complete(3)
    report = evaluate(run, benchmarks="sdpo_tiny", benchmark_limit=12, eval_n=1, ckpts="2 3")
    theirs = simple_evaluate(
        model="hf", tasks=["sdpo_tiny"], limit=12, apply_chat_template=True, batch_size=64, device="cpu",
        model_args={"pretrained": str(MODEL_DIR), "peft": str(folder), "dtype": "float32", "enable_thinking": False},
        task_manager=TaskManager(include_path=str(OWN_TASKS), include_defaults=False),
    )  # fmt: skip
    assert metrics(report, "checkpoint-3")["sdpo_tiny"]["acc,none"] == theirs["results"]["sdpo_tiny"]["acc,none"]
    assert [row["checkpoint"] for row in report["benchmarks"]] == [2, 3]
    values = {row["checkpoint"]: (row["baseline"], row["value"]) for row in report["benchmarks"]}
    assert values[2][0] == values[3][0] == 1 and values[3][1] < 1


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_computes_no_stored_reply_again(run, tmp_path):
    given = {"benchmarks": "sdpo_tiny", "benchmark_limit": 24, "eval_batch_size": 4, "eval_n": 1}
    stored = run / "eval" / "benchmarks-0.jsonl"

    def replies():
        return stored.read_bytes().count(b"\n") if stored.exists() else 0

    processes = EvaluationProcesses(tmp_path)
    child = processes.start(arguments(run, **given))
    assert until(lambda: replies() >= 120, 120)
    os.kill(child, signal.SIGKILL)
    assert processes.wait() == -signal.SIGKILL
    before = replies()
    assert 120 <= before < 192 and read(run) == {}
    with stored.open("ab") as file:
        file.write(b'{"key": "half a li')
    processes.start(arguments(run, **given))
    assert processes.wait() in DONE, processes.output.read_text()
    rows = rows_of(stored)
    assert len(rows) == len({row["key"] for row in rows}) == 192
    report = read(run)
    assert sum(report["benchmark_scores"]["computed"].values()) == 192 - before
    whole = make_run(tmp_path / "whole")
    add_checkpoint(whole, 2, noise=0.046)
    assert evaluate(whole, **given)["benchmarks"] == report["benchmarks"]


@pytest.mark.slow
def test_two_processes_have_the_results_of_one(run, tasks, tmp_path):
    given = {"benchmarks": "sdpo_tiny copied_words", "benchmark_tasks": tasks, "benchmark_limit": 6, "eval_n": 2}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.eval_tldr", *arguments(run, world_size=2, **given)],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in DONE, done.stdout + done.stderr
    two = read(run)
    shares = [len(rows_of(run / "eval" / f"benchmarks-{process}.jsonl")) for process in (0, 1)]
    assert shares == [30, 30]
    one = evaluate(make_run_like(run, tmp_path / "one"), **given)
    assert one["benchmarks"] == two["benchmarks"]


def make_run_like(run: Path, folder: Path) -> Path:
    """Return another run directory with the same checkpoint."""
    other = make_run(folder)
    add_checkpoint(other, 2, noise=0.046)
    return other


@pytest.mark.slow
def test_a_server_answers_the_tasks_that_generate_and_the_others_are_refused(run, tasks, capsys):
    def script(body, number):
        good = body["model"] == str(MODEL_DIR)
        return Answer("TL;DR: goat kicked my hat lol" if good else f"no{'!' * (len(prompt_of(body)) % 3)}\n\nkicked")

    given = {"benchmark_tasks": tasks, "eval_n": 1, "judge_timeout": 5}
    with FakeServer(script) as server:
        evaluate(run, expect=2, answer_url=server.url, benchmarks="sdpo_tiny", **given)
        assert server.bodies == []
        message = capsys.readouterr().err
        assert "BENCHMARKS: sdpo_tiny compares log-probabilities" in message and "Traceback" not in message
        report = evaluate(run, answer_url=server.url, benchmarks="copied_words", **given)
        asked = len(server.bodies)
        assert evaluate(run, answer_url=server.url, benchmarks="copied_words", **given)["benchmarks"]
        assert len(server.bodies) == asked
    assert all(body["max_tokens"] == 24 and body["temperature"] == 0 for body in server.bodies[:20])
    (row,) = report["benchmarks"]
    assert row["baseline"] > 0.5 and row["value"] == 0  # what follows the task's end of an answer does not count
    assert report["benchmark_scores"]["computed"] == {"baseline": 10, "checkpoint-2": 10}


@pytest.mark.slow
def test_repeats_of_an_item_are_samples_of_their_own_from_a_server_too(run, tasks):
    sampled = TASK.replace("do_sample: false", "do_sample: true, temperature: 0.7").replace(
        "words.share", "words.kinds"
    )
    (tasks / "copied_words.yaml").write_text(sampled + "repeats: 3\nfilter_list: [{name: all, filter: "
                                             "[{function: take_first_k, k: 3}]}]\n")  # fmt: skip
    (tasks / "words.py").write_text(
        CODE + "\ndef kinds(doc, answers):\n    return {'share': len(set(answers[0])) / 3}\n"
    )
    given = {"benchmark_tasks": tasks, "eval_n": 1, "benchmarks": "copied_words"}
    with FakeServer(lambda body, number: Answer(f"reply {number}")) as server:
        report = evaluate(run, answer_url=server.url, **given)
        assert report["benchmark_scores"]["computed"] == {"baseline": 30, "checkpoint-2": 30}
        assert [row["baseline"] for row in report["benchmarks"]] == [1.0]  # three replies, none a copy
        asked = len(server.bodies)
        assert evaluate(run, answer_url=server.url, **given)["benchmarks"] == report["benchmarks"]
        assert len(server.bodies) == asked


def test_names_are_separated_by_spaces_or_commas():
    assert names_of(settings(benchmarks="sdpo_tiny, sdpo_facts sdpo_tiny")) == ["sdpo_tiny", "sdpo_facts"]
    assert names_of(settings()) == []


def test_the_suite_is_a_group_of_all_but_code(tasks):
    loaded = load_benchmarks(settings(benchmarks="sdpo copied_words sdpo_facts", benchmark_tasks=tasks))
    names = ["sdpo_facts", "sdpo_arithmetic", "sdpo_format", "sdpo_refusals", "copied_words"]
    assert [benchmark.name for benchmark in loaded] == names


def test_a_group_with_a_value_of_its_own_is_one_benchmark(tasks):
    (tasks / "both.yaml").write_text(
        "group: both\ntask: [sdpo_facts, sdpo_tiny]\naggregate_metric_list:\n  - {metric: acc, weight_by_size: false}\n"
    )
    (loaded,) = load_benchmarks(settings(benchmarks="both", benchmark_tasks=tasks))
    assert (loaded.name, list(loaded.tasks), loaded.metric) == ("both", ["sdpo_facts", "sdpo_tiny"], "acc")
    assert loaded.by_size is False


def test_code_runs_only_where_it_is_allowed():
    with pytest.raises(SettingError, match=r"sdpo_code runs code that the models write\. Set BENCHMARK_CODE=1"):
        load_benchmarks(settings(benchmarks="sdpo_code"))
    assert load_benchmarks(settings(benchmarks="sdpo_code", benchmark_code=True))[0].name == "sdpo_code"


def test_a_task_that_cannot_be_loaded_is_one_line(tasks):
    (tasks / "words.py").write_text("import no_such_package\n")
    with pytest.raises(SettingError) as caught:
        load_benchmarks(settings(benchmarks="copied_words", benchmark_tasks=tasks))
    assert "BENCHMARKS: copied_words cannot be loaded" in str(caught.value) and "\n" not in str(caught.value)
    assert "no_such_package" in str(caught.value)


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # what Python has for a package that cannot be imported
    check_tasks(settings())
    with pytest.raises(SettingError, match=r"not installed: .*pip install 'sdpo\[benchmarks\]'"):
        check_tasks(settings(benchmarks="sdpo_tiny"))


@pytest.mark.slow
def test_an_unknown_task_is_refused_before_a_model_is_loaded(run, tasks, capsys):
    evaluate(run, expect=2, benchmarks="copied_* arc_easi", benchmark_tasks=tasks)
    message = capsys.readouterr().err
    assert "BENCHMARKS: there is no task, group or tag arc_easi" in message and "Did you mean arc_easy?" in message
    assert "Traceback" not in message and not (run / "eval").exists()
