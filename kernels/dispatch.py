"""The two operators as torch knows them: shapes, gradients, and which path computes on which device.

    seedbed::tokens, seedbed::chunks                 forward
    seedbed::tokens_backward, seedbed::chunks_backward

Registered with `torch.library`, they are opaque to `torch.compile`, which keeps them in one graph with
the model around them. On CUDA the fused Triton kernels run; on a CPU, in fp32, the loops that numba has
compiled; elsewhere, and where Triton or numba is not installed, the batched torch operations of `eager`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from seedbed.kernels import batches, compiled, eager, route
from seedbed.kernels.batches import State
from seedbed.kernels.telemetry import Measure

_NOWHERE = nullcontext()


@functools.cache
def _triton() -> ModuleType | None:
    """The launches of the Triton kernels, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("seedbed.kernels.fused")


class _Switch:
    """Whether the Triton kernels may run, in this process."""

    triton = True


def use_triton(*, allowed: bool) -> None:
    """Allow the Triton kernels or not, for the whole process; without them plain torch computes."""
    _Switch.triton = allowed


def _beside(x: Tensor) -> AbstractContextManager[None]:
    """Launches go to the GPU that holds x; nothing to do elsewhere."""
    guard: Any = torch.cuda.device_of
    found: AbstractContextManager[None] = guard(x) if x.is_cuda else _NOWHERE
    return found


def _fused(x: Tensor, state: State) -> Any:
    """The fused path where it can run and is allowed: `fused` on CUDA, else None."""
    module = _triton() if x.is_cuda and _Switch.triton else None
    return module if module is not None and module.supports(x, state) else None


def _whole(x: Tensor, y: Tensor, sums: Tensor | None) -> tuple[Tensor, Tensor]:
    """What an operator of torch returns: it knows no None."""
    return y, x.new_empty((0, len(Measure)), dtype=torch.float32) if sums is None else sums


def plan_tokens(seed_of: Tensor, seeds: int) -> Tensor:
    """The plan of one assignment, for the path that computes where it lies."""
    if seed_of.is_cuda:
        return route.plan_tokens(seed_of, seeds)
    ready = compiled.loops()
    if ready is None:
        return batches.plan_tokens(seed_of, seeds)
    return ready.plan_tokens(seed_of, seeds)


def _tokens_now(
    x: Tensor, seed_of: Tensor, state: State, plan: Tensor | None, *, telemetry: bool
) -> tuple[Tensor, Tensor | None]:
    fused = _fused(x, state)
    if fused is not None:
        with _beside(x):
            y, sums = fused.tokens_forward(x, seed_of, plan, state, telemetry=telemetry)
        return y, sums
    if x.is_cuda:  # the plan is one for the Triton kernels
        return eager.tokens_forward(x, seed_of, state, telemetry=telemetry)
    if plan is not None:
        batches.check_plan(plan, x.shape[0], state.alpha.shape[0])
    ready = compiled.loops() if compiled.supports(x, state) else None
    if ready is None:
        return eager.tokens_forward(x, seed_of, state, plan, telemetry=telemetry)
    plan = ready.plan_tokens(seed_of, state.alpha.shape[0]) if plan is None else plan
    return ready.forward(x, plan, state, telemetry=telemetry)


@torch.library.custom_op("seedbed::tokens", mutates_args=())
def _tokens(
    x: Tensor, seed_of: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor,
    blueprint: Tensor, plan: Tensor | None, telemetry: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    state = State(down, up, alpha, rank, blueprint)
    return _whole(x, *_tokens_now(x, seed_of, state, plan, telemetry=telemetry))


@torch.library.custom_op("seedbed::tokens_backward", mutates_args=())
def _tokens_backward(
    grad: Tensor, x: Tensor, seed_of: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor,
    blueprint: Tensor, plan: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    state = State(down, up, alpha, rank, blueprint)
    fused = _fused(x, state)
    if fused is None:
        got = eager.tokens_backward(grad, x, seed_of, state, None if x.is_cuda else plan)
    else:
        with _beside(x):
            got = fused.tokens_backward(grad, x, seed_of, plan, state)
    return got.x, got.down, got.up, got.alpha


def _chunks_now(x: Tensor, state: State, *, telemetry: bool) -> tuple[Tensor, Tensor | None]:
    fused = _fused(x, state)
    if fused is None:
        ready = compiled.loops() if compiled.supports(x, state) else None
        if ready is not None:
            return ready.forward(x, None, state, telemetry=telemetry)
        return eager.chunks_forward(x, state, telemetry=telemetry)
    with _beside(x):
        y, sums = fused.chunks_forward(x, state, telemetry=telemetry)
    return y, sums


@torch.library.custom_op("seedbed::chunks", mutates_args=())
def _chunks(
    x: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor, blueprint: Tensor,
    telemetry: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    state = State(down, up, alpha, rank, blueprint)
    return _whole(x, *_chunks_now(x, state, telemetry=telemetry))


def _plain(x: Tensor, state: State) -> bool:
    """Whether nobody traces or differentiates, so that torch need not be told of the call.

    The way through the dispatcher costs as much as a small layer itself.
    """
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return False
    return not torch.is_grad_enabled() or not (
        x.requires_grad
        or state.down.requires_grad
        or state.up.requires_grad
        or state.alpha.requires_grad
    )


@torch.library.custom_op("seedbed::chunks_backward", mutates_args=())
def _chunks_backward(
    grad: Tensor, x: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor, blueprint: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    state = State(down, up, alpha, rank, blueprint)
    with _beside(x):
        got = (_fused(x, state) or eager).chunks_backward(grad, x, state)
    return got.x, got.down, got.up, got.alpha


def tokens(
    x: Tensor, seed_of: Tensor, state: State, plan: Tensor | None, *, telemetry: bool
) -> tuple[Tensor, Tensor | None]:
    """The operator `seedbed::tokens`: y, and the sums (S, 6); none or no rows where not asked."""
    if _plain(x, state):
        return _tokens_now(x, seed_of, state, plan, telemetry=telemetry)
    result: tuple[Tensor, Tensor] = _tokens(x, seed_of, *state, plan, telemetry)
    return result


def chunks(x: Tensor, state: State, *, telemetry: bool) -> tuple[Tensor, Tensor | None]:
    """The operator `seedbed::chunks`: y, and the sums (S, 6); none or no rows where not asked."""
    if _plain(x, state):
        return _chunks_now(x, state, telemetry=telemetry)
    result: tuple[Tensor, Tensor] = _chunks(x, *state, telemetry)
    return result


def _fake(x: Tensor, alpha: Tensor, telemetry: bool) -> tuple[Tensor, Tensor]:
    sums = alpha.new_empty((alpha.shape[0] if telemetry else 0, len(Measure)), dtype=torch.float32)
    return x.new_empty(x.shape), sums


@_tokens.register_fake
def _(
    x: Tensor, seed_of: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor,
    blueprint: Tensor, plan: Tensor | None, telemetry: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _fake(x, alpha, telemetry)


@_chunks.register_fake
def _(
    x: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor, blueprint: Tensor,
    telemetry: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _fake(x, alpha, telemetry)


def _like(*inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs)


@_tokens_backward.register_fake
def _(
    grad: Tensor, x: Tensor, seed_of: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor,
    blueprint: Tensor, plan: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _like(x, down, up, alpha)


@_chunks_backward.register_fake
def _(
    grad: Tensor, x: Tensor, down: Tensor, up: Tensor, alpha: Tensor, rank: Tensor, blueprint: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _like(x, down, up, alpha)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keeps the inputs; nothing that the forward pass computed is needed again."""
    ctx.save_for_backward(*inputs[:-1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _tokens_grad(ctx: Any, grad: Tensor | None, _sums: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    x, down, up, alpha = _tokens_backward(grad.contiguous(), *ctx.saved_tensors)
    return x, None, down, up, alpha, None, None, None, None


def _chunks_grad(ctx: Any, grad: Tensor | None, _sums: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    return (*_chunks_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None)


_tokens.register_autograd(_tokens_grad, setup_context=_save)
_chunks.register_autograd(_chunks_grad, setup_context=_save)
