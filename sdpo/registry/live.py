"""The live pointer: which version answers, and which one a share of the conversations tries out.

`live.json` in the registry's folder is replaced atomically, so a reader sees either the old pointer or the new one.
A server may look at the file's modification time on each request, and read it only if that changed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdpo.errors import RunError
from sdpo.runtime.commands import on_registry
from sdpo.runtime.files import replace_file

FILE = "live.json"


@dataclass(frozen=True)
class Canary:
    """A candidate that answers a share of the conversations; `model` is the name the upstream server has for it."""

    version: str
    model: str
    share: float


@dataclass(frozen=True)
class Live:
    """What answers: a version, or the base model if `version` is None.

    `model` is the name that the upstream server has for it; None leaves the name of a request as it is. `changed_at`
    is in seconds since the epoch, 0 if the pointer was never moved; `move` is the number of the last move in the
    history.
    """

    version: str | None = None
    model: str | None = None
    canary: Canary | None = None
    changed_at: float = 0.0
    move: int = 0

    def answering(self, conversation: str) -> tuple[str | None, str | None]:
        """Return version and model for a conversation, which belongs wholly to one side: its id alone decides."""
        if self.canary is not None and in_canary(conversation, self.canary):
            return self.canary.version, self.canary.model
        return self.version, self.model


def of_conversations(share: float) -> str:
    """Return a share of the conversations in words, such as `5% of the conversations`."""
    return f"{100 * share:.3g}% of the conversations"


def in_canary(conversation: str, canary: Canary) -> bool:
    """Return whether a conversation belongs to the candidate. Another candidate gets other conversations."""
    digest = hashlib.sha256(f"{canary.version}\n{conversation}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < canary.share


def read_live(folder: Path) -> Live:
    """Return the pointer of the registry in `folder`: the base model if it was never moved.

    Raises RunError if the file is not a pointer.
    """
    path = Path(folder) / FILE
    try:
        content: Any = json.loads(path.read_text("utf-8"))
        canary = content.get("canary")
        return Live(
            content["version"],
            content["model"],
            None if canary is None else Canary(canary["version"], canary["model"], float(canary["share"])),
            float(content.get("changed_at") or 0.0),
            int(content.get("move") or 0),
        )
    except FileNotFoundError:
        return Live()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is not a live pointer ({type(error).__name__}). Remove it, then run "
            f"{on_registry(Path(folder), 'promote', 'VERSION=...')}."
        ) from None


def write_live(folder: Path, live: Live) -> None:
    """Move the pointer. The folder must exist."""
    replace_file(Path(folder) / FILE, (json.dumps(asdict(live), indent=2) + "\n").encode())
