"""A trained model as GGUF, for llama.cpp and Ollama: converted by llama.cpp's own script, a Modelfile beside it."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from transformers import AutoTokenizer

from sdpo.errors import RunError, on_one_line
from sdpo.models.modelfile import modelfile
from sdpo.runtime.run_directory import replace_file
from sdpo.settings.checks import GGUF_CONVERTER as CONVERTER

GGUF, MODELFILE = "model.gguf", "Modelfile"


def converter(llama_cpp: Path | None) -> Path | None:
    """Return llama.cpp's script: that of the folder, else the one on PATH; None if there is none."""
    if llama_cpp is not None:
        return llama_cpp / CONVERTER
    found = shutil.which(CONVERTER)
    if found is None:  # a script that is not executable is found by its folder
        folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
        return next((folder / CONVERTER for folder in folders if (folder / CONVERTER).is_file()), None)
    return Path(found)


def export_gguf(model: Path, out: Path, llama_cpp: Path | None) -> None:
    """Write `model.gguf` and a Modelfile to the folder `out`; without llama.cpp print the commands that do the first.

    Raises RunError if the conversion fails.
    """
    replace_file(out / MODELFILE, modelfile(AutoTokenizer.from_pretrained(model), GGUF).encode())
    script = converter(llama_cpp)
    if script is None:
        print(
            f"EXPORT=gguf: llama.cpp's {CONVERTER} is neither on PATH nor in LLAMA_CPP. These commands write it:\n"
            "  git clone --depth 1 https://github.com/ggml-org/llama.cpp\n"
            f"  python llama.cpp/{CONVERTER} {shlex.quote(str(model))} --outfile {shlex.quote(str(out / GGUF))}",
            flush=True,
        )
        return
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
