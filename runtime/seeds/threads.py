"""Threads: how many torch may compute with, and those that nobody waits for at the end.

As many as the pod has CPUs, not as many as the node has: torch takes every core that it sees. In a pod with
a CPU limit those threads share a small quota, run it up within a few milliseconds, and all stand still
until the next period begins.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

CGROUP = Path("/sys/fs/cgroup")
VARIABLE = "OMP_NUM_THREADS"


def quota(cgroup: Path = CGROUP) -> float | None:
    """CPUs that the control group allows, of version 2 or 1; None for no limit."""
    whole = _words(cgroup / "cpu.max")
    if whole:
        limit, period = whole[0], whole[-1]
    else:
        limit = " ".join(_words(cgroup / "cpu" / "cpu.cfs_quota_us"))
        period = " ".join(_words(cgroup / "cpu" / "cpu.cfs_period_us"))
    if not limit.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", "-1", or no control group that can be read
    return int(limit) / int(period)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def wanted(cores: int, allowed: float | None) -> int:
    """Threads for so many cores under a limit; a part of a CPU counts as one."""
    return cores if allowed is None else max(1, min(cores, math.ceil(allowed)))


def limit_threads(environment: Mapping[str, str], cgroup: Path = CGROUP) -> int:
    """Hold torch to the CPUs that this process may use; gives the number of threads.

    Whoever sets OMP_NUM_THREADS has decided, and torch has read it.
    """
    if not environment.get(VARIABLE):
        torch.set_num_threads(wanted(len(os.sched_getaffinity(0)), quota(cgroup)))
    return torch.get_num_threads()


def aside(function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
    """What a function gives that may hang for long: its thread keeps no process from ending."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is raised where the future is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="seeds-aside", daemon=True).start()
    return asyncio.wrap_future(done)
