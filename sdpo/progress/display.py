"""Shows the tasks under way, from a thread of its own: a model that computes for minutes does not silence it.

On a terminal there is one bar, that of the outermost task, with its parts behind it. Elsewhere there is a line if
nothing was printed for a while. What the job prints meanwhile goes through the same lock, above the bar.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from sdpo.progress import tasks
from sdpo.progress.tasks import Task

FIRST = 5.0  # seconds after which a task that has printed nothing is first shown by a line
EVERY = 7.0  # seconds without any output after which there is another; with a busy processor they become ten
TICK = 0.5  # seconds between two looks at the tasks
_BAR = (
    "{desc} {percentage:3.0f}% |{bar:10}| {n_fmt} of {total_fmt} {unit} "
    "[{elapsed}, {remaining} left, {rate_fmt}]{postfix}"
)
_NO_TOTAL = "{desc} {elapsed}{postfix}"


@contextmanager
def shown(label: str, main: bool = True) -> Iterator[None]:
    """Show the tasks that run inside, and while there is none `label`; only in the main process of several."""
    if not main or tasks.on_end is not None:
        yield
        return
    with tasks.task(label) as root:
        display = _Display(root)
        with redirect_stdout(display.lines(sys.stdout)), redirect_stderr(display.lines(sys.stderr)), display.running():
            yield


class _Display:
    """Shows the tasks that run inside `root`."""

    def __init__(self, root: Task) -> None:
        self._root, self._out, self._err = root, sys.stdout, sys.stderr
        self._terminal = all(stream.isatty() for stream in (self._out, self._err))
        # Reentrant: a signal handler may print while the same thread prints.
        self.lock = threading.RLock()
        self._ended = threading.Event()
        self._last_output = time.monotonic()
        self._printed: Task | None = None  # the task that the last line of progress was about
        self._new_bar = _bar_maker(self._err) if self._terminal else None
        self._bar: Any = None
        self._bar_of: Task | None = None

    def lines(self, stream: TextIO) -> Any:
        """Return a stream that writes whole lines to this one, above the bar."""
        return _Lines(stream, self)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look at the tasks from a thread of its own."""
        thread = threading.Thread(target=self._run, name="progress", daemon=True)
        tasks.on_end = self._end
        thread.start()
        try:
            yield
        finally:
            tasks.on_end = None
            self._ended.set()
            thread.join()
            self._close_bar()

    def write(self, stream: TextIO, text: str) -> None:
        """Write what the job prints."""
        with self.lock:
            if self._bar is not None:
                self._bar.clear()
            stream.write(text)
            stream.flush()
            self._last_output = time.monotonic()

    def _run(self) -> None:
        while not self._ended.wait(min(TICK, EVERY / 4)):
            under_way = [task for task in tasks.under_way() if task is not self._root] or [self._root]
            now = time.monotonic()
            try:
                with self.lock:
                    if self._terminal:
                        self._refresh_bar(under_way, now)
                    elif self._is_due(under_way[0], now):
                        self._printed = under_way[0]
                        self.write(self._out, f"{tasks.line(under_way, now)}\n")
            except (OSError, ValueError):  # nobody reads it any more: the job itself notices when it prints
                return

    def _is_due(self, task: Task, now: float) -> bool:
        silence = now - self._last_output
        is_new = task is not self._printed and now - task.started >= FIRST
        return silence >= EVERY or (is_new and silence >= FIRST)

    def _end(self, task: Task) -> None:
        """Say what a task came to that was shown by a line."""
        with self.lock:
            if task is self._printed and task is not self._root:
                self._printed = None
                if task.count:
                    seconds = time.monotonic() - task.started
                    self.write(self._out, f"{task.label}: {task.count} in {tasks.interval(seconds)}\n")

    def _refresh_bar(self, under_way: list[Task], now: float) -> None:
        task = under_way[0]
        if task is not self._bar_of:
            self._close_bar()
            if self._new_bar is None or now - task.started < TICK:  # short tasks would only flicker
                return
            self._bar, self._bar_of = self._new_bar(task), task
        self._bar.n = task.done
        self._bar.set_postfix_str("; ".join(inner.part(now) for inner in under_way[1:]), refresh=False)
        self._bar.refresh()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = self._bar_of = None


def _bar_maker(stream: TextIO) -> Callable[[Task], Any]:
    """Return a function that makes the bar of a task; the library is imported here, before anything is timed."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # the display's own thread does what tqdm's would do
    columns = os.get_terminal_size(stream.fileno()).columns  # 0 in some containers
    width: dict[str, Any] = {"dynamic_ncols": True} if columns else {"ncols": 100}

    def new_bar(task: Task) -> Any:
        return tqdm(
            desc=task.label, total=task.total, initial=task.done, unit=task.unit, leave=False,
            file=stream, bar_format=_BAR if task.total else _NO_TOTAL, **width,
        )  # fmt: skip

    return new_bar


class _Lines:
    """A text stream that passes whole lines on to the display."""

    def __init__(self, stream: TextIO, display: _Display) -> None:
        self._stream, self._display, self._held = stream, display, ""

    def write(self, text: str) -> int:
        """Write what ends in a line break, and hold the rest."""
        with self._display.lock:
            whole, line_break, rest = text.rpartition("\n")
            if line_break:
                whole, self._held = self._held + whole + line_break, rest
                self._display.write(self._stream, whole)
            else:
                self._held += rest
        return len(text)

    def flush(self) -> None:
        """Write what is held."""
        with self._display.lock:
            held, self._held = self._held, ""
            if held:
                self._display.write(self._stream, held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
