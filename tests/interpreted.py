"""The Triton kernels on a CPU: run in a process of its own, because Triton decides at import how to run.

    TRITON_INTERPRET=1 python -m tests.interpreted

Compares the launches of `seedbed.kernels.fused` with the fp64 reference and prints one line of JSON a case:
its name and the relative L2 error of each result. Everything a launch allocates without a value starts as
NaN, so a place that no kernel wrote shows.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor
from triton.runtime import interpreter

from seedbed.kernels import chunk_width, fused
from seedbed.kernels.batches import State
from seedbed.kernels.reference import reference_chunks, reference_tokens
from seedbed.kernels.route import plan_tokens
from tests.seeds import errors, exact_gradients, layer, tokens_of

_patch = interpreter._patch_lang_tensor


def _patched(tensor: Any, scope: Any) -> None:
    """Since numpy 2.4 an array of one element is no integer, which Triton 3.6 relies on in `range`."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


def _poisoned(make: Any) -> Any:
    def poisoned(*args: Any, **options: Any) -> Tensor:
        out: Tensor = make(*args, **options)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    return poisoned


def tokens(seeds: int, rows: int, width: int, count: int, dtype: torch.dtype) -> dict[str, float]:
    """Token routing, with telemetry and gradients."""
    state = layer(seeds, rows, width, dtype)
    x, grad = tokens_of(count, width, dtype), tokens_of(count, width, dtype)
    seed_of = torch.randint(-1, seeds + 1, (count,))
    y, sums = fused.tokens_forward(x, seed_of, None, State(*state), telemetry=True)
    quiet, _ = fused.tokens_forward(x, seed_of, None, State(*state), telemetry=False)
    found = fused.tokens_backward(grad, x, seed_of, None, State(*state))
    want, saw = reference_tokens(x, seed_of, state)
    exact = exact_gradients(lambda x, s: reference_tokens(x, seed_of, s)[0], grad, x, state)
    return errors(y=(y, want), quiet=(quiet, want), sums=(sums, saw), **_pairs(found, exact))


def many(seeds: int, rows: int, width: int, count: int) -> dict[str, float]:
    """A few tokens among very many seeds, by both forward kernels of token routing."""
    state = layer(seeds, rows, width, torch.float32)
    x, seed_of = tokens_of(count, width, torch.float32), torch.randint(-1, seeds + 1, (count,))
    seed_of[0] = seeds - 1
    want, saw = reference_tokens(x, seed_of, state)
    vector, sums = fused.tokens_forward(x, seed_of, None, State(*state), telemetry=True)
    tiles, again = torch.empty_like(x), torch.zeros_like(sums)
    plan = plan_tokens(seed_of, seeds)
    fused.launch_tiles(x, tiles, State(*state), plan, again, telemetry=True)
    return errors(vector=(vector, want), tiles=(tiles, want), sums=(sums, saw), again=(again, saw))


def chunks(seeds: int, rows: int, columns: int, count: int, dtype: torch.dtype) -> dict[str, float]:
    """Chunk routing, with telemetry and gradients."""
    state = layer(seeds, rows, chunk_width(columns, seeds), dtype)
    x, grad = tokens_of(count, columns, dtype), tokens_of(count, columns, dtype)
    y, sums = fused.chunks_forward(x, State(*state), telemetry=True)
    quiet, _ = fused.chunks_forward(x, State(*state), telemetry=False)
    found = fused.chunks_backward(grad, x, State(*state))
    want, saw = reference_chunks(x, state)
    exact = exact_gradients(lambda x, s: reference_chunks(x, s)[0], grad, x, state)
    return errors(y=(y, want), quiet=(quiet, want), sums=(sums, saw), **_pairs(found, exact))


def _pairs(found: Any, exact: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    names = ("grad_x", "grad_down", "grad_up", "grad_alpha")
    return dict(zip(names, zip(found, exact, strict=True), strict=True))


def many_chunks(seeds: int, rows: int, columns: int, count: int) -> dict[str, float]:
    """Very many chunks, forward."""
    state = layer(seeds, rows, chunk_width(columns, seeds), torch.bfloat16)
    x = tokens_of(count, columns, torch.bfloat16)
    y, sums = fused.chunks_forward(x, State(*state), telemetry=True)
    want, saw = reference_chunks(x, state)
    return errors(y=(y, want), sums=(sums, saw))


def swap() -> dict[str, float]:
    """Other blueprints, ranks and states in the same tensors: one launch form, other results."""
    state = layer(6, 4, 20, torch.float32)
    x, seed_of = tokens_of(40, 20, torch.float32), torch.randint(0, 6, (40,))
    outcome: dict[str, tuple[Tensor, Tensor]] = {}
    for turn in range(3):
        state.blueprint.copy_((torch.arange(6) + turn) % 3)
        state.alpha.copy_(torch.rand(6))
        y, _ = fused.tokens_forward(x, seed_of, None, State(*state), telemetry=False)
        outcome[f"turn{turn}"] = y, reference_tokens(x, seed_of, state)[0]
    return errors(**outcome)


def at_rest() -> dict[str, float]:
    """A layer at rest passes its input bit for bit, minus zero and all."""
    state = layer(5, 2, 8, torch.bfloat16)
    state.alpha.zero_()
    x = tokens_of(30, 8, torch.bfloat16)
    x[0] = -0.0
    whole = tokens_of(9, 40, torch.bfloat16)
    whole[0] = -0.0
    outs = [
        (fused.tokens_forward(x, torch.arange(30) % 5, None, State(*state), telemetry=False)[0], x),
        (
            fused.tokens_forward(x[:4], torch.arange(4), None, State(*state), telemetry=True)[0],
            x[:4],
        ),
        (fused.chunks_forward(whole, State(*state), telemetry=False)[0], whole),
    ]
    same = [torch.equal(y.view(torch.int16), x.view(torch.int16)) for y, x in outs]
    return {str(number): 0.0 if equal else 1.0 for number, equal in enumerate(same)}


CASES: dict[str, Any] = {
    "tokens fp32": lambda: tokens(7, 4, 40, 60, torch.float32),
    "tokens bf16": lambda: tokens(7, 4, 40, 60, torch.bfloat16),
    "tokens fp16": lambda: tokens(5, 6, 33, 40, torch.float16),
    "tokens, wide bf16": lambda: tokens(3, 18, 130, 50, torch.bfloat16),
    "tokens, few fp32": lambda: tokens(20, 4, 40, 15, torch.float32),
    "tokens, 1025 fp32": lambda: many(1025, 2, 6, 30),
    "chunks, uneven fp32": lambda: chunks(7, 4, 68, 50, torch.float32),
    "chunks bf16": lambda: chunks(7, 4, 70, 50, torch.bfloat16),
    "chunks, fewer columns than seeds fp32": lambda: chunks(7, 3, 5, 9, torch.float32),
    "chunks, wide fp32": lambda: chunks(3, 4, 3 * 80 + 2, 20, torch.float32),
    "chunks, 1025 bf16": lambda: many_chunks(1025, 2, 1025 + 3, 4),
    "swap fp32": swap,
    "at rest": at_rest,
}


def main() -> None:
    """Prints the errors of every case."""
    interpreter._patch_lang_tensor = _patched
    torch.empty_like = _poisoned(torch.empty_like)
    torch.manual_seed(7)
    torch.set_num_threads(1)
    for name, case in CASES.items():
        begun = time.perf_counter()
        line = {"case": name, "errors": case(), "seconds": round(time.perf_counter() - begun, 2)}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
