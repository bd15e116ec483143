"""Jobs of a benchmark in a process of their own, so that one which hangs or dies costs no other."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

Result = dict[str, Any]
Worker = Callable[[list[str], Result, Connection], None]
"""Does the jobs of these names in order. After each it sends the result with what the job has added, and
whether this process may do another one."""


def apart(
    labels: Sequence[str],
    result: Result,
    worker: Worker,
    lost: Callable[[str, Result, str], None],
    *,
    each: float,
    until: float,
) -> Result:
    """The result with what all jobs give, done in as few other processes as they need.

    Args:
        labels: names of the jobs.
        result: what is known before.
        worker: see Worker.
        lost: told of a job of which nothing came back, with the result and why.
        each: seconds that one job may take, the start of its process included.
        until: on `time.perf_counter`; afterwards a job gets one second.
    """
    context = multiprocessing.get_context("spawn")
    left = list(labels)
    while left:
        ours, theirs = context.Pipe()
        process = context.Process(target=worker, args=(left, result, theirs))
        process.start()
        theirs.close()
        usable = True
        while usable and left:
            label = left.pop(0)
            try:
                if not ours.poll(max(1.0, min(each, until - time.perf_counter()))):
                    raise TimeoutError("it took too long")
                result, usable = ours.recv()
            except (EOFError, OSError) as error:
                usable = False
                lost(label, result, f"failed: the process was lost: {error}")
        process.kill()
        process.join()
    return result
