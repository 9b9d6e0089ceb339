"""How many threads a job on a CPU computes with: as many as cores are free, divided among the programs of ours there.

Torch's default is a thread for every core. If others use some of these, each parallel operation waits for its slowest
thread while the rest keep their cores busy by waiting: two jobs on two cores were six times slower than with a thread
each. Importing this module is cheap, and `set_threads` has to be called before torch is imported.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
# How many programs of ours divide this CPU, where a job cannot see it: in containers on one machine.
SHARERS = "SDPO_CPU_SHARERS"
# Waiting threads sleep instead of spinning.
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@dataclass(frozen=True)
class Cores:
    """The cores that this process may use, and how many of them are free."""

    usable: int
    free: int


@dataclass(frozen=True)
class Threads:
    """The threads of each process of a job, and those of the server that it starts on the same CPU (0 without one)."""

    each: int
    server: int = 0


def count_cores(root: Path = Path("/")) -> Cores:
    """Return the cores within this process's affinity and its cgroups' quotas, and how many the load leaves free.

    `root` holds the `proc` and `sys` file systems. At least one core counts as free.
    """
    installed = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else installed
    usable = max(1, int(min([affinity, *_quotas(root)])))
    # The load is that of the whole machine, of which this process may be allowed a part only.
    left = int(installed - os.getloadavg()[0] + 0.5)
    return Cores(usable, max(1, min(usable, left)))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limit in cores of each of this process's cgroups that has one, of version 1 or 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controllers if controllers else "")
        folder = mount / name.strip("/")
        # A limit of any group above holds too. In a container the group's own name may not exist.
        for group in (folder, *folder.parents):
            if group == mount.parent:
                break
            limit = _limit(group)
            if limit is not None:
                yield limit


def _limit(group: Path) -> float | None:
    """Return the quota of one cgroup in cores; None if it has none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def divide(free: int, processes: int = 1, starts_server: bool = False, sharers: int = 1) -> Threads:
    """Return the threads of a job with this many processes, out of `free` cores.

    It gets one of `sharers` equal parts. If it starts a server on the same CPU, half of that is the server's.
    """
    share = max(1, free // sharers)
    server = max(1, share // 2) if starts_server else 0
    return Threads(max(1, (share - server) // processes), server)


def set_threads(processes: int = 1, starts_server: bool = False, sharers: int = 1) -> tuple[Threads, str] | None:
    """Set the number of threads and passive waiting in the environment; return the choice and a line that states it.

    None if OMP_NUM_THREADS is given, or if torch has been imported, which has then chosen.
    """
    if "torch" in sys.modules:
        return None
    for name, value in _PASSIVE.items():
        os.environ.setdefault(name, value)
    if os.environ.get(THREADS, "").strip():
        return None
    cores = count_cores()
    sharers = max(sharers, _given_sharers())
    threads = divide(cores.free, processes, starts_server, sharers)
    os.environ[THREADS] = str(threads.each)
    return threads, _described(cores, threads, processes, sharers)


def _given_sharers() -> int:
    text = os.environ.get(SHARERS, "")
    return int(text) if text.isdigit() and int(text) else 1


def _described(cores: Cores, threads: Threads, processes: int, sharers: int) -> str:
    parts = [f"{threads.each} per process" if processes > 1 else f"{threads.each}"]
    parts += [f"{threads.server} for the simulated user's server"] if threads.server else []
    busy = cores.usable - cores.free
    of = f"{cores.usable} core(s), {busy} of them busy" if busy else f"{cores.usable} core(s)"
    shared = f", of which this job takes one part in {sharers}" if sharers > 1 else ""
    return f"threads: {' and '.join(parts)}; {of}{shared}. {THREADS} sets another number"
