"""Registries for tests: small adapters on the tiny model, and a stand-in for vLLM that loads adapters by request."""

import hashlib
import json
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdpo.registry import versions
from sdpo.settings import PromoteSettings
from sdpo.tiny import MODEL_DIR
from tests.servers import Answer, FakeServer

PROMOTE = {"verdict": "promote", "sentence": "promote: checkpoint-1", "checkpoint": 1}
KEEP = {"verdict": "keep", "sentence": "keep the model that is there", "checkpoint": None}


@cache
def _base():
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR)


def write_adapter(folder: Path, seed: int, size: float = 0.0, rank: int = 4) -> Path:
    """Write a LoRA adapter on the tiny model, with weights of this size, and return its folder."""
    torch.manual_seed(seed)
    model = get_peft_model(_base(), LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], init_lora_weights=not size))
    for name, weight in model.named_parameters():
        if "lora_" in name and size:
            weight.data = size * torch.randn_like(weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    model.unload()
    return folder


def add(registry: Path, source: Path, verdict: dict = PROMOTE, **facts) -> versions.Version:
    """Add an adapter of the tiny model as a version."""
    return versions.add(registry, source, str(MODEL_DIR), verdict=verdict, **facts)


def settings(registry: Path, url: str | None = None, **values) -> PromoteSettings:
    """Return the settings of a move in this registry."""
    return PromoteSettings(registry=registry, upstream=url, **({"unload_after": 0.0} | values))


class FakeVllm(FakeServer):
    """Loads and unloads adapters as vLLM does, and answers as the base model or as a loaded adapter.

    `log` has what happened, in order. With `broken` an adapter is loaded and then fails.
    """

    def __init__(self) -> None:
        super().__init__(self.answer, gets={"/version": Answer(raw=b'{"version": "0.32"}'), "/v1/models": self.listing})
        self.loaded: dict[str, str] = {}
        self.log: list[str] = []
        self.broken = self.refuses = False

    def listing(self, headers: dict) -> Answer:
        """Return the list of models."""
        rows = [{"id": "base", "parent": None}, *({"id": name, "parent": "base"} for name in self.loaded)]
        return Answer(raw=json.dumps({"data": rows}).encode())

    def answer(self, body: dict, number: int) -> Answer:
        """Load, unload or answer."""
        path = body.get("lora_path")
        if path is not None:
            self.log.append(f"load {body['lora_name']}")
            if self.refuses or not (Path(path) / "adapter_model.safetensors").exists():
                return Answer("no such adapter", status=400)
            self.loaded[body["lora_name"]] = path
        elif "lora_name" in body:
            self.log.append(f"unload {body['lora_name']}")
            self.loaded.pop(body["lora_name"], None)
        else:
            self.log.append(f"ask {body['model']}")
            if self.broken or body["model"] not in ("base", *self.loaded):
                return Answer("no such model", status=404)
        return Answer()


class FakeFolders(FakeServer):
    """Answers as `transformers serve` does: the model of a request is a folder, which has to be there as a whole.

    The answer is a fingerprint of the folder's weights.
    """

    def __init__(self) -> None:
        super().__init__(self.answer)

    def answer(self, body: dict, number: int) -> Answer:
        """Answer as the folder."""
        text = weights_in(Path(body["model"]))
        return Answer("no such model", status=404) if text is None else Answer(text)


def weights_in(folder: Path) -> str | None:
    """Return a fingerprint of the weights in a folder that a server could load, None if a part of it is missing."""
    try:
        json.loads((folder / "config.json").read_bytes())
        parts = [(folder / "model.safetensors").stat().st_size]
        if (folder / "adapter_config.json").exists() or folder.name == "served":
            json.loads((folder / "adapter_config.json").read_bytes())
            parts.append(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest())
        return json.dumps(parts)
    except (OSError, ValueError):
        return None
