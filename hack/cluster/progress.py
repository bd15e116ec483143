"""Lines that tell what is going on, on anything that takes more than a few seconds."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL = 5.0


def say(line: str) -> None:
    """Print one line to standard error, so that standard output stays for machines."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say every few seconds that `what` still runs, and at the end how long a slow one took."""
    start = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(INTERVAL):
            say(f"  … {what}: {time.monotonic() - start:.0f} s")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    elapsed = time.monotonic() - start
    if elapsed >= INTERVAL:
        say(f"  {what}: done in {elapsed:.0f} s")
