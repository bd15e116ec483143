"""Groups of processes that train one model, for tests: each process runs a function and keeps tensors."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seedbed.runtime.seeds.group import Group, Mode

Work = Callable[[Group, Path], Mapping[str, Tensor]]


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def together(size: int, mode: Mode, work: Work, folder: Path) -> list[dict[str, Tensor]]:
    """What `work` gives in each process of a group, the first one's first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seedbed.runtime.seeds.server"])
    port = free_port()
    ends: list[Connection] = []
    for rank in range(size):
        ours, theirs = context.Pipe()
        given = (rank, size, mode, port, work, folder, theirs)
        context.Process(target=_run, args=given, daemon=True).start()
        theirs.close()
        ends.append(ours)
    found = []
    for rank, end in enumerate(ends):
        assert end.poll(60), f"process {rank} says nothing"
        error = end.recv()
        assert error == "", error
        found.append(load_file(folder / f"told-{rank}.safetensors"))
    return found


def _run(
    rank: int, size: int, mode: Mode, port: int, work: Work, folder: Path, end: Connection
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        group = Group(mode)
        told = {name: each.detach().contiguous() for name, each in work(group, folder).items()}
        save_file(told, folder / f"told-{rank}.safetensors")
        group.close()
    except BaseException as error:
        end.send(f"{type(error).__name__}: {error}")
        raise
    end.send("")
