"""Asking the user in the background, so that the next answers are generated while the last ones are read."""

import threading
from collections.abc import Callable
from typing import Any


class BackgroundRequest:
    """A call in a thread of its own, which begins once the one `after` has ended; one user is asked at a time.

    A daemon: a hung server must not keep the program from ending.
    """

    def __init__(self, ask: Callable[[], Any], after: "BackgroundRequest | None" = None) -> None:
        self._ask, self._after = ask, after
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the call to end, whatever comes of it."""
        self._thread.join()

    def result(self) -> Any:
        """Wait for the call and return what it returned, or raise what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            if self._after is not None:
                self._after.wait()
            self._value = self._ask()
        except BaseException as error:  # raised again where the result is asked for
            self._error = error
