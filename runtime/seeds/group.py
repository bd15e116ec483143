"""Processes that train one model together: torch.distributed, as torchrun started them.

    replicated   every process holds all seeds, and takes a part of each batch: gradients are summed
    sharded      every process holds a part of each layer's seeds, and takes the whole of each batch: what
                 the seeds of all give is summed

In both, the seeds' state (stages, alphas, metrics: 108 bytes a seed) is the same in every process, so that
each makes the same moves. The first process leads: it tells the others what to do next, as JSON and
tensors. No pickle goes from process to process. See ADR 28.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import orjson
import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import FunctionCtx

from seedbed.crds.errors import SeedbedError

Mode = Literal["replicated", "sharded"]
PATIENCE = timedelta(minutes=10)
"""A process that lets the others wait for longer counts as lost. One that died is noticed at once."""


class GroupLostError(SeedbedError):
    """Another process of the group is gone, so this one has to end and be started anew with the rest."""

    code = "group_lost"


@dataclass(frozen=True, slots=True)
class Told:
    """What the first process wants of the others.

    Attributes:
        task: what to do.
        about: what has to be known for it.
        tensors: more of that.
    """

    task: str
    about: Mapping[str, Any]
    tensors: tuple[Tensor, ...] = ()


class Alone:
    """A group of one process: nothing is shared, nobody is told."""

    rank, size = 0, 1
    mode: Mode = "replicated"

    @property
    def sharded(self) -> bool:
        """Whether the seeds of a layer lie in several processes."""
        return self.mode == "sharded" and self.size > 1

    @property
    def replicated(self) -> bool:
        """Whether several processes hold the same seeds."""
        return self.mode == "replicated" and self.size > 1

    @property
    def leads(self) -> bool:
        """Whether this process tells the others what to do."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def held(self, seeds: int) -> range:
        """Which of a layer's seeds lie here."""
        if not self.sharded:
            return range(seeds)
        return range(seeds * self.rank // self.size, seeds * (self.rank + 1) // self.size)

    def share(self, rows: int) -> slice:
        """Which of a batch's rows are learnt from here."""
        if not self.replicated:
            return slice(0, rows)
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each by its sum over all processes, in one exchange."""

    def tell(self, task: str, about: Mapping[str, Any], tensors: Sequence[Tensor] = ()) -> None:
        """Tell the others, who wait in `hear`; for the first process."""

    def close(self) -> None:
        """Leave the group."""


class Group(Alone):
    """This process among several. Every call waits for all of them, so all make the same calls in order.

    Raises:
        GroupLostError: from any call, where a process has gone.
    """

    def __init__(self, mode: Mode) -> None:
        """Join, by the variables that torchrun sets."""
        self.mode = mode
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._place = torch.device("cpu")
        backend = "gloo"
        if torch.cuda.is_available():
            self._place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self._place)
            backend = "cpu:gloo,cuda:nccl"
        with _others():
            dist.init_process_group(backend, timeout=PATIENCE)

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        return self._place

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each by its sum over all processes; those of one type go in one exchange."""
        if self.size == 1:
            return
        kinds = {(each.dtype, each.device) for each in tensors}
        for kind in sorted(kinds, key=str):
            alike = [each for each in tensors if (each.dtype, each.device) == kind]
            flat = torch.cat([each.detach().reshape(-1) for each in alike])
            with _others():
                dist.all_reduce(flat)
            parts = torch.split(flat, [each.numel() for each in alike])
            for each, part in zip(alike, parts, strict=True):
                each.detach().copy_(part.view(each.shape))

    def tell(self, task: str, about: Mapping[str, Any], tensors: Sequence[Tensor] = ()) -> None:
        """Tell the others, who wait in `hear`."""
        if self.size == 1:
            return
        forms = [(str(each.dtype).removeprefix("torch."), tuple(each.shape)) for each in tensors]
        message = orjson.dumps([task, about, forms])
        self._send(torch.tensor([len(message)]))
        self._send(torch.frombuffer(bytearray(message), dtype=torch.uint8))
        for each in tensors:
            self._send(each.detach().cpu().contiguous())

    def hear(self) -> Told:
        """Wait for what the first process tells."""
        length = self._send(torch.zeros(1, dtype=torch.int64))
        message = self._send(torch.zeros(int(length), dtype=torch.uint8))
        task, about, forms = orjson.loads(message.numpy().tobytes())
        tensors = [
            self._send(torch.empty(shape, dtype=getattr(torch, kind))) for kind, shape in forms
        ]
        return Told(task, about, tuple(tensors))

    def _send(self, tensor: Tensor) -> Tensor:
        """From the first process to the others, on the CPU."""
        with _others():
            dist.broadcast(tensor, src=0)
        return tensor

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _others() -> Iterator[None]:
    """Waiting for the others; torch tells of a lost one in several ways."""
    try:
        yield
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise GroupLostError(f"a process of the group does not answer: {told:.200}") from error


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each uses it in the same way, so each part's gradient is the sum's."""

    @staticmethod
    def forward(_: FunctionCtx, part: Tensor, group: Alone) -> Tensor:
        whole = part.clone()
        group.add([whole])
        return whole

    @staticmethod
    def backward(_: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Spread(torch.autograd.Function):
    """The same tensor for the seeds of every process: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: Alone) -> Tensor:
        ctx.group = group
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        ctx.group.add([gradient])
        return gradient, None


def summed(part: Tensor, group: Alone) -> Tensor:
    """The sum of what all processes give, with gradients."""
    found: Tensor = _Sum.apply(part, group)  # type: ignore[no-untyped-call]  # torch has no types here
    return found


def spread(whole: Tensor, group: Alone) -> Tensor:
    """A tensor that every process has, given to its seeds; the gradients of all come together."""
    found: Tensor = _Spread.apply(whole, group)  # type: ignore[no-untyped-call]  # as above
    return found
