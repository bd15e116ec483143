"""What else computes many low-rank seeds on a GPU, for `seeds_h200`.

All rivals get bf16, tokens in the order of the seeds, the counts known to the host, the parameters laid out
as they like them, and the seeds' shares multiplied into those beforehand: a graph of theirs holds for these
shares alone. A rival that cannot run a shape raises, and what it says is its result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hack.bench.seeds_case import Case
from hack.bench.seeds_timing import Way, evented, rehearsing

WHOLE = 512
"""Groups that one call of torch's grouped product can have."""


def looped(case: Case) -> Way:
    """One seed after another."""
    _only_linear(case)
    shared = shared_up(case)

    def run() -> Tensor:
        y = torch.empty_like(case.x)
        first = 0
        for s, count in enumerate(case.counts):
            mine = case.x[first : first + count]
            if count:
                hidden = mine @ case.state.down[s].T
                torch.addmm(mine, hidden, shared[s], out=y[first : first + count])
            first += count
        return y

    return run


def shared_up(case: Case) -> Tensor:
    """The slabs that write, times the seeds' shares."""
    return (case.state.up * case.state.alpha[:, None, None]).to(case.x.dtype)


def batched(case: Case, *, compiled: bool) -> Way:
    """Batched products of even blocks; chunks by a view."""
    shape, state = case.shape, case.state
    if not case.even:
        raise ValueError("blocks or ranks are not even; padding is another problem")
    chunked = not case.counts

    def product(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        if chunked:
            by_seed = x.view(len(x), shape.seeds, -1).transpose(0, 1)
        else:
            by_seed = x.view(shape.seeds, shape.each, -1)
        y = torch.baddbmm(by_seed, torch.bmm(by_seed, down.transpose(1, 2)), up)
        return y.transpose(0, 1).reshape(x.shape) if chunked else y

    up = shared_up(case)
    backend = "eager" if rehearsing() else "inductor"
    # Each shape for itself: after the first, torch would compile for shapes that it does not know.
    call: Callable[..., Tensor] = (
        torch.compile(product, backend=backend, dynamic=False) if compiled else product
    )
    return lambda: call(case.x, state.down, up)


def grouped(case: Case, most: int, *, turned: bool = False) -> Way:
    """Torch's grouped product, at most so many groups a call; `turned`: by the other layout of `down`."""
    _only_linear(case)
    into = case.state.down.transpose(1, 2)
    into, shared = into if turned else into.contiguous(), shared_up(case)
    bounds = torch.tensor([0, *torch.tensor(case.counts).cumsum(0).tolist()])
    pieces = []
    for s in range(0, case.shape.seeds, most):
        last = min(s + most, case.shape.seeds)
        rows = slice(int(bounds[s]), int(bounds[last]))
        ends = (bounds[s + 1 : last + 1] - bounds[s]).int().to(case.x.device)
        pieces.append((slice(s, last), rows, ends))

    def run() -> None:
        for seeds, rows, ends in pieces:
            mine = case.x[rows]
            hidden = torch.nn.functional.grouped_mm(mine, into[seeds], offs=ends)
            torch.add(mine, torch.nn.functional.grouped_mm(hidden, shared[seeds], offs=ends))

    return run


def _only_linear(case: Case) -> None:
    if not case.counts:
        raise ValueError("chunks are no groups of rows")
    if case.name == "X1":
        raise ValueError("computes no norm and no gelu")


def peft(case: Case) -> float:
    """Peft's own batch of different adapters, less the base layer's time; it is no part of Seedbed."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - may be missing

    shape = case.shape
    width = shape.columns
    model: Any = torch.nn.Sequential(torch.nn.Linear(width, width, bias=False))
    config = LoraConfig(r=shape.rank, target_modules=["0"], init_lora_weights=True)
    model = inject_adapter_in_model(config, model, adapter_name="a0")
    # The others as copies: peft looks at all adapters for each that it adds, minutes for a thousand.
    parts = (*vars(model[0]).values(), *model[0].children())
    for held in parts:
        if isinstance(held, (dict, torch.nn.ModuleDict)) and "a0" in held:
            for s in range(1, shape.seeds):
                held[f"a{s}"] = copy.deepcopy(held["a0"])
    model = model.to(case.x.device, case.x.dtype).eval()
    x = case.x.view(shape.seeds, shape.each, width)
    names = [f"a{s}" for s in range(shape.seeds)]
    base = evented(lambda: torch.nn.functional.linear(x, model[0].base_layer.weight), 5)
    return evented(lambda: model[0](x, adapter_names=names), 5) - base
