"""The online step beside TRL's own SDPO trainer: seconds of a step beside generation, and what is counted in it.

    python -m benchmarks.online [--steps 20] [--threads 2] [--objective token] [--template framed] [--only trl ours]

Both train the model of benchmarks/scoring.py with a live teacher on the same prompts and follow-ups, of about 312 and
41 tokens, 4 rows a step and 64 new tokens each, in the same hindsight contexts: the follow-up is shown after the prompt
(`framed`) or before it (`before`). Each runs in a process of its own, and they take turns step by step. A step is
everything from one step's beginning to the next; generation, TRL's own in both, is timed apart. Beside the
seconds stand those of the CPU, which other processes change less: take them with one thread. `guarded` is ours with the
guard of the training jobs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

VARIANTS = ("trl", "ours", "guarded")
BATCH, NEW_TOKENS, PROMPT, FOLLOW_UP = 4, 64, 312, 41
WARM_UP = 2
MODES = {"token": "sampled_token", "full": "full_logits", "top_k": "topk_logits"}


def texts(tokenizer: Any, rng: Random, length: int) -> str:
    """Return text of about `length` tokens of the tiny world."""
    from sdpo.tiny.data import posts

    words = " ".join(row.prompt for row in posts(length // 8, rng.randrange(1000), False, "bench")).split()
    ids = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"][:length]
    return tokenizer.decode(ids)


def rows(tokenizer: Any, count: int) -> list[dict]:
    """Return prompts and the follow-ups to their answers."""
    rng = Random(0)
    return [
        {
            "prompt": [{"role": "user", "content": texts(tokenizer, rng, PROMPT + rng.randrange(-60, 60))}],
            "privileged_context": texts(tokenizer, rng, FOLLOW_UP + rng.randrange(-9, 9)),
        }
        for _ in range(count)
    ]


class Turns:
    """The callback that makes one step when its process is asked to, and reports it."""

    def __init__(self, report: Callable[[dict], None]) -> None:
        self.report = report
        self.seconds = self.generation = self.started = (0.0, 0.0)
        self.counted: dict[str, float] = {}

    def begin(self) -> None:
        """Report the step that ended, wait to be asked for the next, and start the clocks."""
        if any(self.started):
            step, generation = _since(self.started), self.generation
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            seconds = {"step": step[0], "generation": generation[0], "beside": step[0] - generation[0]}
            self.report(seconds | {"beside, CPU": step[1] - generation[1]} | self.counted | {"peak GB": memory})
        self.generation, self.counted = (
            (0.0, 0.0),
            dict.fromkeys(("forwards", "tokens", "with gradient", "head rows"), 0),
        )
        sys.stdin.readline()
        self.started = _clocks()

    def generating(self, generate: Callable) -> Callable:
        """Return the generation function with its time taken and its passes not counted."""

        def timed(*arguments: Any) -> Any:
            counted, started = dict(self.counted), _clocks()
            result = generate(*arguments)
            self.generation, self.counted = _since(started), counted
            return result

        return timed

    def count(self, model: Any) -> None:
        """Count what goes through the model's layers and its LM head."""
        import torch

        def layer(_: Any, arguments: tuple, named: dict) -> None:
            hidden_BLH = arguments[0] if arguments else named["hidden_states"]
            size = hidden_BLH.shape[0] * hidden_BLH.shape[1]
            self.counted["forwards"] += 1
            self.counted["tokens"] += size
            self.counted["with gradient"] += size * torch.is_grad_enabled()

        def head(_: Any, __: tuple, output: Any) -> None:
            self.counted["head rows"] += output.numel() // output.shape[-1]

        model.model.layers[0].register_forward_pre_hook(layer, with_kwargs=True)
        model.lm_head.register_forward_hook(head)


def _clocks() -> tuple[float, float]:
    """Return the seconds of the clock and those that this process used the CPU."""
    return time.perf_counter(), time.process_time()


def _since(started: tuple[float, float]) -> tuple[float, float]:
    seconds, used = _clocks()
    return seconds - started[0], used - started[1]


def trl_trainer(model: Any, tokenizer: Any, dataset: list[dict], objective: str, template: str, arguments: dict) -> Any:
    """Return TRL's trainer."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    from sdpo.text.hindsight import template_named

    shown = template_named(template)
    config = SDPOConfig(
        **arguments, num_generations=1, max_prompt_length=None, teacher_model_kind="live",
        distillation_mode=MODES[objective], distillation_topk=20 if objective == "top_k" else None,
        use_successful_as_teacher=False, include_environment_feedback=True,
        reprompt_template="{prompt}{feedback}" if shown.place == "after" else "{feedback}{prompt}",
        feedback_template=shown.text.replace("{follow_up}", "{feedback_raw}"),
    )  # fmt: skip
    return SDPOTrainer(
        model=model, reward_funcs=lambda prompts, **_: [0.0] * len(prompts), args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_list(dataset),
    )  # fmt: skip


def our_trainer(
    model: Any, tokenizer: Any, dataset: list[dict], objective: str, template: str, guarded: bool, arguments: dict
) -> Any:
    """Return the trainer of the online jobs, with the callbacks of a run."""
    from datasets import Dataset

    from sdpo.method.objective import Objective
    from sdpo.method.teacher import Teacher
    from sdpo.runtime.run_directory import RunDirectory
    from sdpo.text.hindsight import template_named
    from sdpo.train.callbacks import MetricsCallback, TeacherCallback
    from sdpo.train.guard import CollapseGuard
    from sdpo.train.online.sampling import OnlineConfig
    from sdpo.train.online.trainer import OnlineTrainer
    from sdpo.train.start_model import StartModel
    from sdpo.users.simulator import FollowUp

    replies = {row["prompt"][-1]["content"]: row["privileged_context"] for row in dataset}

    class User:
        round = 0

        def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
            return [FollowUp(replies[prompt], satisfied=False) for prompt in prompts]

    teacher = Teacher("live", model)
    start = Teacher("frozen", model) if guarded else None
    trainer = OnlineTrainer(
        user=User(), model=model, teacher=teacher, start=start, objective=Objective(kind=objective),
        args=OnlineConfig(**arguments), train_dataset=Dataset.from_list(dataset), processing_class=tokenizer,
        hindsight_template=template_named(template),
    )  # fmt: skip
    run = RunDirectory(Path(arguments["output_dir"]))
    metrics = MetricsCallback(run, trainer, 0, None)
    trainer.add_callback(TeacherCallback(trainer, teacher))
    trainer.add_callback(metrics)
    if start is not None:
        measured = StartModel(start, tokenizer, BATCH, None, template_named(template))
        trainer.add_callback(
            CollapseGuard(run, trainer, lambda: metrics.row, lambda: trainer.latest, False, False, measured)
        )
    return trainer


def work(variant: str, steps: int, threads: int, objective: str, template: str) -> None:
    """Make one step for each line of the standard input; write what it took to the standard output."""
    out, sys.stdout = sys.stdout, sys.stderr
    import torch
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

    from benchmarks.scoring import build_model
    from sdpo.models.pretrained import silence_libraries
    from sdpo.tiny import MODEL_DIR
    from sdpo.train.arguments import OPTIMIZERS

    silence_libraries()
    torch.set_num_threads(threads)
    model, tokenizer = build_model(), AutoTokenizer.from_pretrained(MODEL_DIR, padding_side="left")
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    turns = Turns(lambda values: print(json.dumps(values), file=out, flush=True))

    class Callback(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder, "max_steps": steps + WARM_UP + 1, "per_device_train_batch_size": BATCH,
            "learning_rate": 1e-6, "max_completion_length": NEW_TOKENS, "use_cpu": True, "bf16": False,
            "gradient_checkpointing": False, "save_strategy": "no", "report_to": [], "disable_tqdm": True,
            "logging_steps": 3, "lr_scheduler_type": "constant", "temperature": 1.0,
            "chat_template_kwargs": {"enable_thinking": False},
        }  # fmt: skip
        dataset = rows(tokenizer, BATCH * (steps + WARM_UP + 1))
        if variant == "trl":
            trainer = trl_trainer(model, tokenizer, dataset, objective, template, arguments)
            trainer._generate_transformers = turns.generating(trainer._generate_transformers)
        else:
            arguments |= {"beta": 0.0, "optim": OPTIMIZERS["adamw"]}
            trainer = our_trainer(model, tokenizer, dataset, objective, template, variant == "guarded", arguments)
            trainer._generate_single_turn = turns.generating(trainer._generate_single_turn)
        trainer.remove_callback(PrinterCallback)
        turns.count(model)
        trainer.callback_handler.callbacks.insert(0, Callback())
        trainer.train()


def take_turns(names: list[str], given: dict[str, Any]) -> Iterator[dict[str, dict[str, float]]]:
    """Yield the measures of each variant's next step."""
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.online", *flags, "--variant"]
    workers = {
        name: subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    }
    for _ in range(given["steps"] + WARM_UP):
        results = {}
        for name, worker in workers.items():
            assert worker.stdin is not None and worker.stdout is not None
            print(file=worker.stdin, flush=True)
            results[name] = json.loads(worker.stdout.readline())
        yield results
    for worker in workers.values():
        worker.communicate()


def main() -> None:
    """Print the medians of each variant, and the medians of the ratios to TRL's step of the same round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objective", choices=list(MODES), default="token")
    parser.add_argument("--template", choices=("framed", "before"), default="framed")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    names = given.pop("only")
    if variant := given.pop("variant"):
        work(variant, **given)
        return
    measured = list(take_turns(names, given))[WARM_UP:]
    for name in names:
        values = {key: [turn[name][key] for turn in measured] for key in measured[0][name]}
        ratios = {
            key: statistics.median(turn[name][key] / (turn[names[0]][key] or 1) for turn in measured) for key in values
        }
        parts = [f"{key} {statistics.median(values[key]):.3f} ({ratios[key]:.2f} x)" for key in values]
        print(f"{name:8} {'   '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
