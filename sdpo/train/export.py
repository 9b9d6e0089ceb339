"""A trained model as GGUF, for llama.cpp and Ollama: converted by llama.cpp's own script, a Modelfile beside it.

Importing this is cheap.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from sdpo.errors import RunError, on_one_line
from sdpo.runtime.files import replace_file
from sdpo.settings.checks import GGUF_CONVERTER as CONVERTER

GGUF, MODELFILE = "model.gguf", "Modelfile"
NOT_EXPORTED = "not written as GGUF, which needs llama.cpp"
MERGED = "merged"  # the folder of the model with its adapter merged in


def converter(llama_cpp: Path | None) -> Path | None:
    """Return llama.cpp's script: that of the folder, else the one on PATH; None if there is none."""
    if llama_cpp is not None:
        return llama_cpp / CONVERTER
    found = shutil.which(CONVERTER)
    if found is None:  # a script that is not executable is found by its folder
        folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
        return next((folder / CONVERTER for folder in folders if (folder / CONVERTER).is_file()), None)
    return Path(found)


def by_hand(model: str, out: Path) -> str:
    """Return lines that say that llama.cpp's script is missing, with the commands that convert a model by hand."""
    return (
        f"EXPORT=gguf: llama.cpp's {CONVERTER} is neither on PATH nor in LLAMA_CPP. These commands write {GGUF}:\n"
        "  git clone --depth 1 https://github.com/ggml-org/llama.cpp\n"
        f"  python llama.cpp/{CONVERTER} {model} --outfile {shlex.quote(str(out / GGUF))}"
    )


def export_gguf(model: Path, out: Path, llama_cpp: Path | None) -> bool:
    """Write `model.gguf` and a Modelfile to the folder `out`; without llama.cpp print the commands that do the first.

    Returns whether `model.gguf` was written. Raises RunError if the conversion fails.
    """
    from transformers import AutoTokenizer

    from sdpo.models.modelfile import modelfile

    replace_file(out / MODELFILE, modelfile(AutoTokenizer.from_pretrained(model), GGUF).encode())
    script = converter(llama_cpp)
    if script is None:
        print(by_hand(shlex.quote(str(model)), out), flush=True)
        return False
    temporary = out / f".{GGUF}"
    done = subprocess.run(
        [sys.executable, str(script), str(model), "--outfile", str(temporary)], capture_output=True, text=True
    )
    if done.returncode or not temporary.is_file():
        temporary.unlink(missing_ok=True)
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it wrote no file")
        raise RunError(
            f"{script} cannot convert {model}: {on_one_line(last, 300)}. Install its requirements, or leave EXPORT "
            "out; the model itself is complete."
        )
    temporary.replace(out / GGUF)
    print(f"GGUF: {out / GGUF}; for Ollama: ollama create NAME -f {out / MODELFILE}", flush=True)
    return True
