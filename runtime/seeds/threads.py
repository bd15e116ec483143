"""Threads: how many torch may compute with, and those that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch

from seedbed.runtime.cpus import CGROUP, cpus

T = TypeVar("T")

VARIABLE = "OMP_NUM_THREADS"


def limit_threads(environment: Mapping[str, str], cgroup: Path = CGROUP) -> int:
    """Hold torch to the CPUs that this process may use; gives the number of threads.

    Whoever sets OMP_NUM_THREADS has decided, and torch has read it.
    """
    if not environment.get(VARIABLE):
        torch.set_num_threads(cpus(cgroup))
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
