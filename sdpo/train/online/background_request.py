"""Requests to the simulated user in a background thread, while the next answers are generated."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BackgroundRequest(Generic[Result]):
    """A call in its own thread, which starts once the request `after` has ended: so a user gets one at a time.

    The thread is a daemon, because a hung server must not keep the program from ending.
    """

    def __init__(self, ask: Callable[[], Result], after: "BackgroundRequest | None" = None) -> None:
        self._ask, self._after = ask, after
        self._future: Future[Result] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the call has ended, with a value or an error."""
        self._thread.join()

    def result(self) -> Result:
        """Wait for the call; return what it returned or raise what it raised."""
        self.wait()
        return self._future.result()

    def _run(self) -> None:
        try:
            if self._after is not None:
                self._after.wait()
            self._future.set_result(self._ask())
        except BaseException as error:  # raised again in `result`
            self._future.set_exception(error)
