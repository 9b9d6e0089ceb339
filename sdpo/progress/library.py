"""The bars that libraries show, as tasks: for the hooks by which a library lets others make its bars."""

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from sdpo.progress.tasks import Task, task


class LibraryBar(tqdm):
    """A bar of tqdm that is a task under way and prints nothing itself, as `tqdm.notebook` shows its bars elsewhere."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._under: Task | None = None
        super().__init__(*arguments, **{**named, "gui": True, "disable": False, "mininterval": 0.1})
        self._context = task(
            self.desc or "working",
            None if self.total is None else int(self.total),
            "" if self.unit == "it" else self.unit.strip(),
        )
        self._under = self._context.__enter__()

    def display(self, *_: Any, **__: Any) -> None:
        """Note how far it is."""
        if self._under is not None:
            self._under.done = int(self.n)

    def close(self) -> None:
        """End the task."""
        if self._under is not None:
            self.display()
            self._under = None
            self._context.__exit__(None, None, None)


def as_task(_factory: Callable, arguments: tuple, named: dict[str, Any]) -> LibraryBar:
    """Return a bar that is a task, for `transformers.utils.logging.set_tqdm_hook`."""
    return LibraryBar(*arguments, **named)
