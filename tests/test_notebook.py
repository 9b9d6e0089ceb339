"""The notebook runs as it is shipped, on a CPU, and shows what its text says; so do the blocks of docs/trainer.md."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.worlds import environment

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
TINY = f"{ROOT}/sdpo/tiny/model"
CHECKS = """
moved = {name: min(values[:-1]) for name, values in signals.items()}
assert moved["a complaint"] < -2 < -1 < min(moved["thanks"], moved["something else"]), moved
assert len(shares) == STEPS and sum(shares[-3:]) / 3 > sum(shares[:3]) / 3 + 0.1, shares
"""


def test_the_notebook_is_valid_and_has_no_outputs():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4 and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_and_show_what_the_text_says(tmp_path):
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    done = execute("\n".join([*code, CHECKS]), tmp_path)
    assert "answers without an emoji:" in done.stdout and done.stdout.count("before: ") == 4


@pytest.mark.slow
def test_the_blocks_of_the_trainer_page_run(tmp_path):
    text = (ROOT / "docs" / "trainer.md").read_text("utf-8")
    first, recommended, loop = re.findall(r"```python\n(.*?)```", text, re.S)
    first = first.replace("Qwen/Qwen3-0.6B", TINY).replace("max_steps=20", "max_steps=1, use_cpu=True")
    recommended = recommended.replace("Qwen/Qwen2.5-0.5B-Instruct", TINY)
    recommended = recommended.replace("max_steps=100", "max_steps=1, use_cpu=True, guard='off', rehearsal=0.0")
    model = f"""
import torch
from sdpo.models.policy import load_model
tokenizer, model = load_model({TINY!r})
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
    used = """
question = [[{"role": "user", "content": "I lost my keys."}]] * 2
before = [weight.clone() for weight in model.parameters()]
signal_BT = step(question, ["TL;DR: lost keys", "TL;DR: my keys are lost"], ["No emojis.", "Longer."])
assert signal_BT.shape[0] == 2 and signal_BT.abs().sum() > 0
assert any(not torch.equal(*pair) for pair in zip(before, model.parameters()))
"""
    execute("\n".join([first, recommended, model, loop, used]), tmp_path)


def execute(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run the code as a script in the folder, and check that it ends well."""
    (folder / "cells.py").write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=folder, env=environment(), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done
