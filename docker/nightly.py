"""Runs `make learn` each day at LEARN_HOUR (UTC), with the settings of the environment, until it is stopped.

LEARN_HOUR=now learns at once, and then each day at the hour at which it was started.
"""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from types import FrameType


def seconds_until(hour: int, now: datetime) -> float:
    """Return the seconds from `now` to the next time at which this hour begins."""
    start = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    return (start + timedelta(days=start <= now) - now).total_seconds()


def main() -> int:
    """Learn each night. A night that fails is said in its own log, and the next one goes on with it."""
    text = os.environ.get("LEARN_HOUR", "3").strip()
    at_once = text == "now"
    hour = datetime.now(UTC).hour if at_once else int(text) if text.isdecimal() else 24
    if hour > 23:
        print(f"error: LEARN_HOUR={text} is not an hour from 0 to 23, or now.", file=sys.stderr, flush=True)
        return 2
    running: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        if running is not None and running.poll() is None:
            running.send_signal(signal.SIGTERM)  # it saves, and the same night goes on at the next start
            running.wait()
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while True:
        if not at_once:
            wait = seconds_until(hour, datetime.now(UTC))
            print(f"learner: learning in {wait / 3600:.1f} hours, at {hour:02}:00 UTC", flush=True)
            time.sleep(wait)
        at_once = False
        running = subprocess.Popen([sys.executable, "-m", "jobs.learn"])
        print(f"learner: the night ended with exit code {running.wait()}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
