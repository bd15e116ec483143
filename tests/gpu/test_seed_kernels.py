"""The fused kernels on a GPU: against the fp64 reference, in a CUDA graph, and under torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seedbed.kernels import (
    SeedTensors,
    chunk_width,
    dispatch,
    plan_route,
    seed_chunks,
    seed_tokens,
)
from seedbed.kernels.reference import reference_chunks, reference_tokens
from tests.seeds import LIMIT, errors, exact_gradients, layer, tokens_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    torch.manual_seed(3)


def on_device(state: SeedTensors) -> SeedTensors:
    """The same seeds on the GPU."""
    return SeedTensors(*(tensor.cuda() for tensor in state))


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize(
    ("seeds", "rows", "width", "count"),
    [(1023, 8, 256, 3000), (1024, 16, 512, 700), (1025, 16, 333, 5000), (7, 64, 1024, 900)],
)
def test_tokens(seeds: int, rows: int, width: int, count: int, dtype: torch.dtype) -> None:
    state, x = layer(seeds, rows, width, dtype), tokens_of(count, width, dtype)
    seed_of = torch.randint(-1, seeds + 1, (count,))
    grad = torch.randn(count, width).to(dtype)
    want, saw = reference_tokens(x, seed_of, state)
    exact = exact_gradients(lambda x, s: reference_tokens(x, seed_of, s)[0], grad, x, state)
    far = on_device(state)
    leaves = [t.clone().requires_grad_() for t in (x.cuda(), far.down, far.up, far.alpha)]
    moved = SeedTensors(leaves[1], leaves[2], leaves[3], far.rank, far.blueprint)
    y, sums = seed_tokens(leaves[0], seed_of.cuda(), moved, telemetry=True)
    torch.autograd.backward(y, grad.cuda())
    assert sums is not None
    found = [leaf.grad for leaf in leaves if leaf.grad is not None]
    pairs = {str(n): (f.cpu(), e) for n, (f, e) in enumerate(zip(found, exact, strict=True))}
    worst = errors(y=(y.detach().cpu(), want), **pairs)
    assert max(worst.values()) <= LIMIT[dtype], worst
    assert errors(sums=(sums.cpu(), saw))["sums"] <= 1e-4


@pytest.mark.parametrize("dtype", list(LIMIT))
@pytest.mark.parametrize(
    ("seeds", "rows", "columns"), [(1024, 16, 16384), (1000, 8, 4099), (3, 8, 900)]
)
def test_chunks(seeds: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    state = layer(seeds, rows, chunk_width(columns, seeds), dtype)
    x, grad = tokens_of(70, columns, dtype), tokens_of(70, columns, dtype)
    want, saw = reference_chunks(x, state)
    exact = exact_gradients(lambda x, s: reference_chunks(x, s)[0], grad, x, state)
    far = on_device(state)
    leaves = [t.clone().requires_grad_() for t in (x.cuda(), far.down, far.up, far.alpha)]
    moved = SeedTensors(leaves[1], leaves[2], leaves[3], far.rank, far.blueprint)
    y, sums = seed_chunks(leaves[0], moved, telemetry=True)
    torch.autograd.backward(y, grad.cuda())
    assert sums is not None
    found = [leaf.grad for leaf in leaves if leaf.grad is not None]
    pairs = {str(n): (f.cpu(), e) for n, (f, e) in enumerate(zip(found, exact, strict=True))}
    worst = errors(y=(y.detach().cpu(), want), **pairs)
    assert max(worst.values()) <= LIMIT[dtype], worst
    assert errors(sums=(sums.cpu(), saw))["sums"] <= 1e-4


def test_a_graph_follows_states_and_assignments() -> None:
    """Captured once; then seeds, blueprints and the tokens' seeds change in place."""
    state = on_device(layer(1024, 8, 256, torch.bfloat16))
    x, seed_of = torch.randn(4000, 256).bfloat16().cuda(), torch.randint(0, 1024, (4000,)).cuda()

    def call() -> Tensor:
        return seed_tokens(x, seed_of, state, plan=plan_route(seed_of, (4000,), 1024))[0]

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call()
    for turn in range(3):
        state.blueprint.copy_((torch.arange(1024) + turn) % 3)
        state.alpha.copy_(torch.rand(1024) * (torch.rand(1024) > 0.5))
        seed_of.copy_((torch.rand(4000) ** 3 * 1024).long())
        graph.replay()
        near = SeedTensors(*(tensor.cpu() for tensor in state))
        want, _ = reference_tokens(x.cpu(), seed_of.cpu(), near)
        assert errors(y=(y.cpu(), want))["y"] <= 1e-2


def test_compiled_whole() -> None:
    state = on_device(layer(64, 8, 128, torch.float32))
    x, seed_of = torch.randn(500, 128).cuda(), torch.randint(0, 64, (500,)).cuda()

    def model(x: Tensor) -> Tensor:
        return seed_tokens(torch.nn.functional.gelu(x), seed_of, state)[0] * 2

    assert torch.allclose(torch.compile(model, fullgraph=True)(x), model(x), atol=1e-4)


@pytest.mark.parametrize("each", [1, 5])
@pytest.mark.parametrize("usual", [False, True])
def test_plain_torch_on_the_device(each: int, usual: bool) -> None:
    """What a pod computes where the flag of the Triton kernels is off."""
    near = layer(40, 8, 64, torch.float32)
    if usual:
        near.alpha.clamp_(min=0.1)
        near.rank.fill_(8)
        near.blueprint.zero_()
    state, x = on_device(near), torch.randn(40 * each, 64)
    seed_of = torch.arange(40).repeat_interleave(each)
    wide = torch.randn(each, 40 * 64)
    dispatch.use_triton(allowed=False)
    try:
        for order in (torch.arange(40 * each), torch.randperm(40 * each)):
            want, saw = reference_tokens(x, seed_of[order], near)
            for telling in (False, True):
                y, sums = seed_tokens(x.cuda(), seed_of[order].cuda(), state, telemetry=telling)
                assert errors(y=(y.cpu(), want))["y"] <= 1e-5
                assert sums is None or errors(sums=(sums.cpu(), saw))["sums"] <= 1e-4
        want, _ = reference_chunks(wide, near)
        assert errors(y=(seed_chunks(wide.cuda(), state)[0].cpu(), want))["y"] <= 1e-5
    finally:
        dispatch.use_triton(allowed=True)
