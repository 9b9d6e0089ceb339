"""The loop closed in the tiny world, over HTTP: users talk to the gateway, a night of learning, users talk again.

    python -m benchmarks.loop [--conversations 1000] [--clients 64] [--out FOLDER]

`transformers serve` has the tiny model, `make gateway` is in front of it. The clients, half of whom want short answers
and half formal ones, talk at once, every second one streaming. Then the store is compared with what the clients saw,
`make learn` learns from it and lets the version go live in the server, 256 new conversations are measured, and `make
rollback` goes back. Printed: whether anything was lost or doubled, adherence before and after, the other axes, and
whether the base model answers as before, to the token.
"""

import argparse
import tempfile
from pathlib import Path

from sdpo.learn.around import Result, once_around, running, table

FRESH = 256


def measure(folder: Path, conversations: int, clients: int, fresh: int = FRESH, *learn_flags: str) -> Result:
    """Go once around in a folder, and return what came of it."""
    with running(folder) as loop:
        return once_around(loop, conversations, clients, fresh, *learn_flags)


def main() -> None:
    """Go once around and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path, help="the folder for store, registry and runs; if not set, a temporary one")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="loop-"))
    result = measure(folder, given.conversations, given.clients)
    print(f"{len(result.errors)} errors, {result.kept}, seconds {result.seconds}")
    print(*result.errors[:3], sep="\n", end="")
    print(table(result), result.versions)
    before, after, back = result.greedy if len(result.greedy) == 3 else [*result.greedy, None]
    print(f"live at the end: {result.live_at_the_end}; the version answers otherwise: {after != before}; ", end="")
    print(f"rolled back as before: {back == before}\nfolder: {folder}")


if __name__ == "__main__":
    main()
