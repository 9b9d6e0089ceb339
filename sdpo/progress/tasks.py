"""The tasks under way: what each does, how far it is, how fast, and when it ends."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(eq=False)
class Task:
    """One task under way. `total` is None if it is not known; `done` counts `unit`, in the plural."""

    label: str
    total: int | None = None
    unit: str = ""
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._first = self.done  # what was done before does not count for the rate

    def advance(self, count: int = 1) -> None:
        """Note that `count` more are done."""
        self.done += count

    @property
    def count(self) -> str:
        """What is done, as text: "3 of 8 answers", or "" if nothing is counted."""
        if self.total is None:
            return f"{self.done} {self.unit}".rstrip() if self.unit else ""
        return f"{self.done} of {self.total} {self.unit}".rstrip()

    def text(self, now: float) -> str:
        """Return what is done, how far, how fast and when it ends, in one line."""
        seconds = now - self.started
        if not self.count:
            return f"{self.label}: {interval(seconds)}"
        parts, rate = [f"{self.label}: {self.count}"], (self.done - self._first) / seconds if seconds > 0 else 0.0
        if self.total:
            parts[0] += f" ({100 * self.done // self.total} %)"
        if rate:
            parts.append(f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each")
        if rate and self.total is not None:
            parts.append(f"{interval(max(self.total - self.done, 0) / rate)} left")
        else:
            parts.append(f"{interval(seconds)} so far")
        return ", ".join(parts)

    def part(self, now: float) -> str:
        """Return the same for a task inside another: shorter, as the other's line has the time."""
        return f"{self.label}: {self.count or interval(now - self.started)}"


def interval(seconds: float) -> str:
    """Return a duration as 0:07, 12:30 or 3:05:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(tasks: Sequence[Task], now: float) -> str:
    """Return one line about the first task, followed by the parts of it that are under way."""
    return "; ".join([tasks[0].text(now), *(inner.part(now) for inner in tasks[1:])])


# From the outermost to the innermost. Threads share it: a request in the background is part of what is under way.
_under_way: list[Task] = []
# Called with each task that ends.
on_end: Callable[[Task], None] | None = None


def under_way() -> list[Task]:
    """Return the tasks under way, from the outermost to the innermost."""
    return list(_under_way)


@contextmanager
def task(label: str, total: int | None = None, unit: str = "", done: int = 0) -> Iterator[Task]:
    """Show what runs inside as under way; the task that it yields is advanced by its user.

    `unit` is what is counted, in the plural. `done` is how many were done before, as in a resumed run.
    """
    new = Task(label, total, unit, done)
    _under_way.append(new)
    try:
        yield new
    finally:
        _under_way.remove(new)
        if on_end is not None:
            on_end(new)


def each(items: Iterable[Item], label: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, and show how many of them are done."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with task(label, total, unit) as under:
        for item in items:
            yield item
            under.advance()
