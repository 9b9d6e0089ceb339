"""Whether a local model's weights are present and whole, by their names, headers and sizes. Importing this is cheap."""

import json
from pathlib import Path

# As transformers looks for them, the first that exists: one file, or an index of several.
_NAMES = ("model.safetensors", "pytorch_model.bin")
_OTHERS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.gguf")
_LFS = b"version https://git-lfs"


def weights_fault(folder: Path) -> str:
    """Return what is wrong with the weights in a model's folder, with the file; empty if nothing is."""
    for name in _NAMES:
        if (folder / name).is_file():
            return _file_fault(folder / name)
        if (index := folder / f"{name}.index.json").is_file():
            return _shards_fault(index)
    return "" if any(next(folder.glob(pattern), None) for pattern in _OTHERS) else f"it has no weights ({_NAMES[0]})"


def safetensors_size(path: Path) -> int:
    """Return how many bytes a safetensors file has by its header. Raises ValueError or KeyError if it has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("no header")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("no header")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def _shards_fault(index: Path) -> str:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{index} is not an index of weights"
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more of its {len(names)} files are" if len(missing) > 1 else ", which is"
        return f"{index} names {missing[0]}{more} missing"
    return next((fault for name in names if (fault := _file_fault(index.parent / name))), "")


def _file_fault(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return f"{path} is a pointer of Git LFS, not the weights (`git lfs pull` gets them)"
    if path.suffix != ".safetensors":
        return "" if size else f"{path} is empty"
    try:
        whole = safetensors_size(path)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{path} is cut off or not a safetensors file: it has no header"
    return "" if size == whole else f"{path} has {size:,} bytes of {whole:,}"
