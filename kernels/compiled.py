"""The CPU path of a layer in fp32: the loops that numba has compiled, run by torch's own threads.

torch's operators run on an OpenMP library that comes with it. A second pool of threads would fight with
its threads, which spin for a while after each operator. So the same library starts the same team for
these loops; where it is not found, one thread does all.

Compiling takes a few seconds, once in a process: `prepare` does it beforehand. numba keeps the result on
disk where it may write, see `NUMBA_CACHE_DIR`. Without numba the torch operations of `eager` compute.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seedbed.kernels.batches import State
from seedbed.kernels.telemetry import Measure

_log = logging.getLogger(__name__)
GRAIN = 1 << 15
"""Elements of x for which another thread is worth waking, as for torch's operators."""
PIECES = 4
"""Parts of the work for each thread, so that a slow thread leaves some to the others."""
_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Loops(NamedTuple):
    """Compiled.

    Attributes:
        call: makes the structure that holds a call's addresses and sizes.
        sort: puts a call's tokens in the order of their seeds.
        work: does a call's work, alone or as one of many.
        address: that of `work`.
        team: lets the threads of torch's OpenMP call a function; None where it is not found.
    """

    call: Callable[..., ctypes.Structure]
    sort: Callable[[Any], None]
    work: Callable[[Any], None]
    address: int
    team: Callable[[int, Any, int, int], None] | None

    def plan_tokens(self, seed_of: Tensor, seeds: int) -> Tensor:
        """As `batches.plan_tokens`, by counting."""
        tokens = seed_of.shape[0]
        seed_of = seed_of.to("cpu", torch.int64).contiguous()
        plan = torch.empty(tokens + seeds + 2, dtype=torch.int64)
        order = plan.data_ptr()
        self.sort(ctypes.byref(self.call(
            seed_of=seed_of.data_ptr(), order=order, starts=order + 8 * tokens, tokens=tokens, seeds=seeds,
        )))  # fmt: skip
        return plan

    def forward(
        self, x: Tensor, plan: Tensor | None, state: State, *, telemetry: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Output (T, columns), and the sums (S, 6) where asked; by chunks where no plan names tokens."""
        down, up, alpha, rank, blueprint = state
        alpha, rank, blueprint = alpha.contiguous(), rank.contiguous(), blueprint.contiguous()
        tokens, columns = x.shape
        seeds, rows, width = down.shape
        y = torch.empty_like(x)
        sums = torch.zeros((seeds, len(Measure)), dtype=torch.float64) if telemetry else None
        threads = 1
        if self.team is not None:
            threads = min(torch.get_num_threads(), 1 + tokens * columns // GRAIN)
        order = 0 if plan is None else plan.data_ptr()
        taken = ctypes.c_int64(0)
        call = ctypes.byref(self.call(
            x.data_ptr(), y.data_ptr(), 0, down.data_ptr(), up.data_ptr(), alpha.data_ptr(),
            rank.data_ptr(), blueprint.data_ptr(), 0 if sums is None else sums.data_ptr(), order,
            order + 8 * tokens, ctypes.addressof(taken), tokens, columns, seeds, rows, width,
            threads * PIECES,
        ))  # fmt: skip
        if threads > 1 and self.team is not None:
            self.team(self.address, call, threads, 0)
        else:
            self.work(call)
        return y, None if sums is None else sums.float()


def _team() -> Callable[[int, Any, int, int], None] | None:
    """`GOMP_parallel` of the OpenMP library that torch itself is bound to.

    A name is looked for in a library and in those that it depends on.
    """
    found = sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    try:
        start: Any = ctypes.CDLL(str(found[0])).GOMP_parallel
    except (IndexError, OSError, AttributeError):
        return None
    start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    start.restype = None
    team: Callable[[int, Any, int, int], None] = start
    return team


@functools.cache
def loops() -> Loops | None:
    """The loops, compiled at the first call; None where numba is not installed or cannot be imported."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        module: Any = importlib.import_module("seedbed.kernels.loops")
    except ImportError as wrong:  # numba names the versions of numpy that it goes with
        _log.warning("seeds are computed without compiled loops: %s", wrong)
        return None
    fields = [(name, ctypes.c_int64) for name in module.FIELDS]
    call = type("Call", (ctypes.Structure,), {"_fields_": fields})
    work = module.work.address
    return Loops(call, _LOOP(module.sort.address), _LOOP(work), work, _team())


def prepare() -> bool:
    """Compiles, so that no later call waits for it; whether there are compiled loops."""
    return loops() is not None


def supports(x: Tensor, state: State) -> bool:
    """Whether these tensors are what the loops are compiled for."""
    down, _, alpha, rank, blueprint = state
    return (
        x.dtype == down.dtype == alpha.dtype == torch.float32
        and rank.dtype == blueprint.dtype == torch.int32
        and x.is_cpu
        and all(tensor.is_cpu for tensor in state)
    )
