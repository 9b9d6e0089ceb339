"""Checks of setting values. Each returns None for a valid value, otherwise a description of what is allowed."""

import re
import shlex
from ipaddress import ip_address
from pathlib import Path

from sdpo.errors import command, instead_of

# The folders that preparation jobs write, by their names.
PREPARED_BY = {
    "english_prompts": "prep-english",
    "helpsteer2_prompts": "prep-helpsteer",
    "tldr_prompts_unique": "prep-tldr",
    "logs": "prep-logs INPUT=...",
}
GGUF_CONVERTER = "convert_hf_to_gguf.py"  # of llama.cpp


def plain_name(value: str) -> str | None:
    """Check that the value is safe as a folder name."""
    return None if re.fullmatch(r"\w[\w.+-]*", value) else "a name of letters, digits, '-', '_' and '.', not a path"


def repository_name(value: str) -> str | None:
    """Check that the value names a repository of the hub with its owner."""
    part = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
    return None if re.fullmatch(f"{part}/{part}", value, re.ASCII) else "an owner and a name, such as someone/my-model"


def http_address(value: str) -> str | None:
    """Check that the value is the URL of a server."""
    return None if re.match(r"https?://[^/\s]", value) else "an address such as http://127.0.0.1:8000/v1"


def own_address(value: str) -> str | None:
    """Check that the value is an IP address, which a server on this machine can listen on."""
    try:
        ip_address(value)
    except ValueError:
        return "an IP address such as 127.0.0.1, or 0.0.0.0 for all addresses of this machine"
    return None


def _instead(allowed: str, value: Path) -> str:
    """Return the description with the names that are nearest to a path that does not exist."""
    return allowed if value.exists() else f"{allowed}.{instead_of(value)}".rstrip(".")


def existing_file(value: Path) -> str | None:
    """Check that the file exists."""
    return None if value.is_file() else _instead("an existing file", value)


def existing_folder(value: Path) -> str | None:
    """Check that the folder exists."""
    if not value.exists() and value.name in PREPARED_BY:
        return f"an existing folder. Make it with {command(PREPARED_BY[value.name])}"
    return None if value.is_dir() else _instead("an existing folder", value)


def llama_cpp_folder(value: Path) -> str | None:
    """Check that the folder has llama.cpp's script that converts models."""
    return None if (value / GGUF_CONVERTER).is_file() else f"a folder with {GGUF_CONVERTER} in it"


def folders_in(value: Path) -> list[Path]:
    """Return the folders that a value names: itself, if it exists, else several separated by spaces.

    A name with spaces among several is quoted. Raises ValueError for an open quote.
    """
    if value.exists():
        return [value]
    return [Path(part).expanduser() for part in shlex.split(str(value))]


def folder_words(value: Path) -> str | None:
    """Check that the value names one folder, or several with every quote closed; whether they exist is not checked."""
    try:
        return None if folders_in(value) else "a folder, or several separated by spaces"
    except ValueError:
        return "folders with every quote closed"


def existing_path(value: Path) -> str | None:
    """Check that the file or folder exists."""
    return None if value.exists() else _instead("an existing file or folder", value)


def template_file(value: Path) -> str | None:
    """Check that the file is a hindsight template."""
    try:
        return None if "{follow_up}" in value.read_text("utf-8") else "a text file that contains {follow_up}"
    except (OSError, UnicodeDecodeError):
        return "a readable text file"


def step_list(value: str) -> str | None:
    """Check that the value lists checkpoint steps."""
    steps = value.replace(",", " ").split()
    usable = value.strip() == "all" or (steps and all(re.fullmatch(r"[0-9]{1,9}", step) for step in steps))
    return None if usable else 'all, or whole numbers such as "3 6 9"'


def names(value: str) -> str | None:
    """Check that the value holds one or more names separated by spaces; a name with spaces is quoted."""
    try:
        return None if shlex.split(value) else "one or more names"
    except ValueError:
        return "names with every quote closed"


def setting_words(value: str) -> str | None:
    """Check that the value is NAME=value words."""
    try:
        words = shlex.split(value)
    except ValueError:
        return "NAME=value words with every quote closed"
    usable = all("=" in word and word.partition("=")[0].isidentifier() for word in words)
    return None if usable else "NAME=value words, such as 'LR=1e-4 GPUS=4'"
