"""What a setting's value is checked for: each returns what would be allowed where the value is not, else None."""

import re
import shlex
from ipaddress import ip_address
from pathlib import Path


def plain_name(value: str) -> str | None:
    """A name that is safe as a folder's."""
    return None if re.fullmatch(r"\w[\w.+-]*", value) else "a name of letters, digits, '-', '_' and '.', not a path"


def http_address(value: str) -> str | None:
    """An address of a server."""
    return None if re.match(r"https?://[^/\s]", value) else "an address such as http://127.0.0.1:8000/v1"


def own_address(value: str) -> str | None:
    """An address that a server of ours can listen on."""
    try:
        ip_address(value)
    except ValueError:
        return "an IP address such as 127.0.0.1, or 0.0.0.0 for all of this machine's"
    return None


def existing_file(value: Path) -> str | None:
    """A file that is there."""
    return None if value.is_file() else "a file that is there"


def existing_folder(value: Path) -> str | None:
    """A folder that is there."""
    return None if value.is_dir() else "a folder that is there"


def existing_path(value: Path) -> str | None:
    """A file or folder that is there."""
    return None if value.exists() else "a file or folder that is there"


def template_file(value: Path) -> str | None:
    """A hindsight template."""
    try:
        return None if "{follow_up}" in value.read_text("utf-8") else "a text file that contains {follow_up}"
    except (OSError, UnicodeDecodeError):
        return "a text file that can be read"


def step_list(value: str) -> str | None:
    """Steps of checkpoints."""
    steps = value.replace(",", " ").split()
    usable = value.strip() == "all" or (steps and all(re.fullmatch(r"[0-9]{1,9}", step) for step in steps))
    return None if usable else 'all, or whole numbers such as "3 6 9"'


def names(value: str) -> str | None:
    """Names with spaces between; quotes hold one with spaces together."""
    try:
        return None if shlex.split(value) else "one or more names"
    except ValueError:
        return "names with every quote closed"
