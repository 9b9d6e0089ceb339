"""Training runs in this process, on a model of a few thousand random weights: quick enough to try many settings."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from sdpo.settings.resolve import resolve
from sdpo.text.records import interaction_lines
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.data import logged
from sdpo.train.job import check_training
from sdpo.train.offline.session import OfflineSession
from sdpo.train.online.session import OnlineSession
from sdpo.train.session import Session
from tests.commands import JOBS

ONLINE = ("train_online_tldr", "train_online_helpsteer")
OFFLINE = ("train_offline", "train_offline_wildchat", "train_offline_wildfeedback")
COMMON = {"lr": 1e-3, "train_n": 8, "bs": 4, "ga": 1, "save_steps": 2, "log_steps": 1, "eval_n": 0, "seed": 3}
OF_ONLINE = {"user_model_name_or_path": "rule", "style": "no_emojis", "user_trial": "off", "max_completion_tokens": 8}
OF_OFFLINE = {"epochs": 1, "warmup": 0, "holdout": 0, "min_signal": 0}


def write_model(folder: Path, seed: int = 0, **config: object) -> Path:
    """Write a model of a few thousand random weights with the tiny world's tokenizer, and return the folder."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    torch.manual_seed(seed)
    values = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": True,
        "initializer_range": 0.2, "max_position_embeddings": 1024, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
    }  # fmt: skip
    Qwen3ForCausalLM(Qwen3Config(**values | config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_interactions(path: Path, count: int = 24) -> Path:
    """Write logged interactions of the tiny world and return the file."""
    path.write_text("".join(interaction_lines(logged(count, seed=1))), "utf-8")
    return path


def session_of(job: str, out: Path, checked: bool = True, **values: object) -> Session:
    """Return the session of a run that is checked as a job checks it; `values` are its settings."""
    module = JOBS[f"jobs.{job}"]
    given = COMMON | (OF_ONLINE if job in ONLINE else OF_OFFLINE) | values
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    settings = resolve(
        module.settings, ["--tiny", *flags], job=module.name, defaults=module.defaults, tiny=module.tiny, environment={}
    )
    settings = dataclasses.replace(settings, output_dir=out, run_id=out.name)
    if checked:
        check_training(settings, module.name)
    return (OnlineSession if job in ONLINE else OfflineSession)(settings, module)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of each weight by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def moved(before: Mapping[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    """Return the names of the weights that are no longer what they were."""
    return {name for name, weight in model.named_parameters() if not torch.equal(before[name], weight.detach())}


def pairwise(axes: Mapping[str, Sequence[str]], allowed) -> list[dict[str, str]]:
    """Return few combinations in which each pair of values of two axes occurs that occurs in any allowed one."""
    product = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    remaining = [combination for combination in product if allowed(combination)]
    missing = set().union(*map(_pairs, remaining))
    chosen = []
    while missing:
        best = max(remaining, key=lambda combination: len(missing & _pairs(combination)))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def _pairs(combination: Mapping[str, str]) -> set[Iterable[tuple[str, str]]]:
    return set(itertools.combinations(combination.items(), 2))
