import os
from pathlib import Path

import pytest

# No test may contact a hub or a tracking server,
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
for name in ("WANDB_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "WORLD_SIZE", "MAKEFLAGS", "MAKELEVEL"):
    os.environ.pop(name, None)
os.environ["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:9"  # nor Claude's API: nothing listens here


@pytest.fixture(scope="session")
def project() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from sdpo.tiny import MODEL_DIR

    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture
def model():
    import torch
    from transformers import AutoModelForCausalLM

    from sdpo.tiny import MODEL_DIR

    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch) -> None:
    """Run the test in an empty folder, without environment variables that are settings."""
    from tests.commands import clean_environment

    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
