"""All seeds of a layer in one call: against the fp64 reference, over shapes, states, ranks and dtypes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from seedbed import kernels
from seedbed.crds.errors import InvalidError
from seedbed.kernels import (
    Blueprint,
    SeedTensors,
    chunk_width,
    correlation,
    dead_fraction,
    drift,
    newborn,
    plan_route,
    seed_chunks,
    seed_tokens,
    variance,
)
from seedbed.kernels.reference import reference_chunks, reference_tokens
from seedbed.kernels.route import plan_tokens, tile_rows, unpack
from tests.seeds import LIMIT, errors, exact_gradients, layer, tokens_of

ROOT = Path(__file__).resolve().parents[2]
DTYPES = st.sampled_from(list(LIMIT))


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    torch.manual_seed(11)


def linear(seeds: int, rows: int, width: int) -> SeedTensors:
    """Low-rank seeds of full rank that all act."""
    state = layer(seeds, rows, width, torch.float32, resting=0.0)
    return state._replace(
        rank=torch.full((seeds,), rows, dtype=torch.int32),
        blueprint=torch.zeros(seeds, dtype=torch.int32),
    )


@pytest.mark.req("ESP-18")
@settings(max_examples=60, deadline=None)
@given(
    seeds=st.integers(1, 40), rows=st.integers(2, 9), width=st.integers(1, 40),
    count=st.integers(0, 120), dtype=DTYPES, skew=st.floats(0, 3), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_tokens_agree_with_the_reference(
    seeds: int, rows: int, width: int, count: int, dtype: torch.dtype, skew: float, seed: int
) -> None:
    torch.manual_seed(seed)
    state = layer(seeds, rows, width, dtype)
    x = tokens_of(count, width, dtype)
    seed_of = (torch.rand(count) ** (1 + skew) * (seeds + 2)).long() - 1
    want, saw = reference_tokens(x, seed_of, state)
    y, sums = seed_tokens(x, seed_of, state, telemetry=True)
    quiet, none = seed_tokens(x, seed_of, state)
    assert none is None
    assert sums is not None
    found = errors(y=(y, want), quiet=(quiet, want), sums=(sums, saw))
    assert max(found["y"], found["quiet"]) <= LIMIT[dtype]
    assert found["sums"] <= 1e-4


@pytest.mark.req("ESP-18")
@settings(max_examples=60, deadline=None)
@given(
    seeds=st.integers(1, 40), rows=st.integers(2, 9), columns=st.integers(1, 150),
    count=st.integers(0, 30), dtype=DTYPES, seed=st.integers(0, 2**31),
)  # fmt: skip
def test_chunks_agree_with_the_reference(
    seeds: int, rows: int, columns: int, count: int, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    state = layer(seeds, rows, chunk_width(columns, seeds), dtype)
    x = tokens_of(count, columns, dtype)
    want, saw = reference_chunks(x, state)
    y, sums = seed_chunks(x, state, telemetry=True)
    quiet, _ = seed_chunks(x, state)
    assert sums is not None
    found = errors(y=(y, want), quiet=(quiet, want), sums=(sums, saw))
    assert max(found["y"], found["quiet"]) <= LIMIT[dtype]
    assert found["sums"] <= 1e-4


@settings(max_examples=40, deadline=None)
@given(
    seeds=st.integers(1, 12), rows=st.integers(2, 6), width=st.integers(1, 20),
    count=st.integers(1, 60), dtype=DTYPES, chunked=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_gradients_agree_with_the_reference(
    seeds: int, rows: int, width: int, count: int, dtype: torch.dtype, chunked: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    columns = width * seeds - seeds // 2 if chunked else width
    state = layer(seeds, rows, chunk_width(columns, seeds) if chunked else width, dtype)
    x, grad = tokens_of(count, columns, dtype), tokens_of(count, columns, dtype)
    seed_of = torch.randint(-1, seeds + 1, (count,))

    def call(x: Tensor, s: SeedTensors) -> Tensor:
        return seed_chunks(x, s)[0] if chunked else seed_tokens(x, seed_of, s)[0]

    def exactly(x: Tensor, s: SeedTensors) -> Tensor:
        return reference_chunks(x, s)[0] if chunked else reference_tokens(x, seed_of, s)[0]

    leaves = [t.clone().requires_grad_() for t in (x, state.down, state.up, state.alpha)]
    seeds_now = SeedTensors(leaves[1], leaves[2], leaves[3], state.rank, state.blueprint)
    torch.autograd.backward(call(leaves[0], seeds_now), grad)
    exact = exact_gradients(exactly, grad, x, state)
    for leaf, want in zip(leaves, exact, strict=True):
        assert leaf.grad is not None
        close = float((leaf.grad.double() - want).norm())
        assert close <= LIMIT[dtype] * max(float(want.norm()), 0.1)


@pytest.mark.req("ESP-18")
@pytest.mark.parametrize("seeds", [1, 1023, 1024, 1025, 4096])
@pytest.mark.parametrize("each", [1, 3])
def test_any_number_of_seeds_runs_as_one_call(seeds: int, each: int) -> None:
    state = layer(seeds, 4, 8, torch.float32)
    x = tokens_of(seeds * each, 8, torch.float32)
    seed_of = torch.arange(seeds).repeat_interleave(each)
    y, _ = seed_tokens(x, seed_of, state)
    mixed = torch.randperm(len(x))
    shuffled, _ = seed_tokens(x[mixed], seed_of[mixed], state)
    assert errors(y=(shuffled, y[mixed].double()))["y"] <= 1e-6
    some = slice(0, 64 * each)
    want, _ = reference_tokens(
        x[some], seed_of[some], SeedTensors(*(tensor[:64] for tensor in state))
    )
    assert errors(y=(y[some], want))["y"] <= 1e-5


@pytest.mark.parametrize("each", [1, 5])
def test_the_usual_layer_which_has_a_shorter_way(each: int) -> None:
    """All seeds act, low rank, full rank, tokens in even blocks."""
    state = linear(9, 3, 8)
    x, seed_of = tokens_of(9 * each, 8, torch.float32), torch.arange(9).repeat_interleave(each)
    y, _ = seed_tokens(x, seed_of, state)
    assert errors(y=(y, reference_tokens(x, seed_of, state)[0]))["y"] <= 1e-5
    mixed = torch.randperm(len(x))
    shuffled, _ = seed_tokens(x[mixed], seed_of[mixed], state)
    assert errors(y=(shuffled, y[mixed].double()))["y"] <= 1e-6
    wide = tokens_of(each, 72, torch.float32)
    y, _ = seed_chunks(wide, state)
    assert errors(y=(y, reference_chunks(wide, state)[0]))["y"] <= 1e-5


@pytest.mark.req("ESP-01")
def test_the_package_tells_its_version_and_features() -> None:
    assert kernels.__version__.count(".") == 2
    assert {"token-routing", "chunk-routing", "telemetry"} <= set(kernels.FEATURES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_loop_over_seeds_on_the_cpu(dtype: torch.dtype) -> None:
    """A hundred times as many seeds take no more torch operations."""

    def operations(seeds: int) -> int:
        state, x = layer(seeds, 4, 8, dtype), tokens_of(2 * seeds, 8, dtype)
        seed_of = torch.arange(seeds).repeat(2)
        with torch.profiler.profile() as profile:
            seed_tokens(x, seed_of, state, telemetry=True)
        return len(profile.events())

    operations(30)
    assert operations(3000) < 1.5 * operations(30)


@pytest.mark.parametrize(("columns", "seeds"), [(70, 7), (68, 7), (5, 7), (1003, 1000)])
def test_every_column_has_a_seed(columns: int, seeds: int) -> None:
    """The original dropped the columns that were left over when the width did not divide."""
    state = linear(seeds, 2, chunk_width(columns, seeds))
    x = tokens_of(3, columns, torch.float32) + 1
    y, sums = seed_chunks(x, state, telemetry=True)
    assert bool((y != x).any(0).all())
    assert sums is not None
    assert int(sums[:, 0].sum()) == x.numel()


def test_a_fossilised_seed_keeps_acting() -> None:
    """The original turned it into the identity. Alpha one is what a fossilised seed has."""
    state = linear(3, 2, 6)._replace(alpha=torch.ones(3))
    x = tokens_of(6, 6, torch.float32)
    y, _ = seed_tokens(x, torch.arange(6) % 3, state)
    added = torch.einsum("td,trd,tre->te", x, state.down.repeat(2, 1, 1), state.up.repeat(2, 1, 1))
    assert torch.allclose(y, x + added, atol=1e-5)


@pytest.mark.parametrize("blueprint", [Blueprint.LOW_RANK, Blueprint.MLP, Blueprint.NORM])
def test_alpha_is_applied_once(blueprint: Blueprint) -> None:
    """The original multiplied by it in more than one place: half the share was a quarter."""
    state = linear(4, 3, 10)._replace(blueprint=torch.full((4,), int(blueprint), dtype=torch.int32))
    x, seed_of = tokens_of(9, 10, torch.float32), torch.arange(9) % 4

    def added(share: float) -> Tensor:
        part = state._replace(alpha=torch.full((4,), share))
        return seed_tokens(x, seed_of, part)[0] - x

    assert float(added(1.0).norm()) > 0
    assert torch.allclose(added(0.5), added(1.0) / 2, atol=1e-5)


def test_the_call_waits_for_nothing_and_skips_nothing() -> None:
    """The original's synchronous path left the loaded kernels out: same results, called how you will."""
    state, x = linear(5, 2, 7), tokens_of(11, 7, torch.float32)
    seed_of = torch.arange(11) % 5
    plain, _ = seed_tokens(x, seed_of, state)
    with torch.inference_mode():
        inference, _ = seed_tokens(x, seed_of, state)
    leaf = x.clone().requires_grad_()
    training, _ = seed_tokens(leaf, seed_of, state)
    planned, _ = seed_tokens(x, seed_of, state, plan=plan_route(seed_of, (11,), 5))
    assert bool((plain != x).any())
    for other in (inference, training.detach(), planned):
        assert torch.equal(plain, other)


@pytest.mark.parametrize("dtype", list(LIMIT))
def test_a_seed_at_rest_passes_its_tokens_bit_for_bit(dtype: torch.dtype) -> None:
    state = layer(6, 3, 12, dtype)
    state.alpha[::2] = 0.0
    state.down[::2], state.up[::2] = float("nan"), float("inf")
    x = tokens_of(60, 12, dtype)
    x[0] = -0.0
    seed_of = torch.arange(60) % 6
    y, _ = seed_tokens(x, seed_of, state)
    resting = seed_of % 2 == 0
    assert torch.equal(y[resting], x[resting])
    assert bool(torch.signbit(y[0]).all())
    same, sums = seed_tokens(x, seed_of, state._replace(alpha=torch.zeros(6)), acting=False)
    assert same is x
    assert sums is None


def test_a_seed_at_rest_is_still_watched() -> None:
    state, x = layer(4, 2, 5, torch.float32), tokens_of(40, 20, torch.float32)
    state.alpha.zero_()
    y, sums = seed_chunks(x, state, telemetry=True, acting=False)
    assert torch.equal(y, x)
    assert sums is not None
    parts = x.view(40, 4, 5).transpose(0, 1)
    assert torch.allclose(variance(sums), parts.flatten(1).var(1, correction=0), atol=1e-5)
    assert torch.allclose(dead_fraction(sums), (parts == 0).float().mean((1, 2)))
    assert torch.equal(drift(sums), torch.zeros(4))


def test_figures_of_a_seed_that_acts() -> None:
    state, x = linear(3, 2, 4), tokens_of(30, 4, torch.float32)
    seed_of = torch.arange(30) % 3
    y, sums = seed_tokens(x, seed_of, state, telemetry=True)
    assert sums is not None
    for s in range(3):
        mine = seed_of == s
        moved = (y - x)[mine].norm() / x[mine].norm()
        assert torch.allclose(drift(sums)[s], moved, rtol=1e-4)


def test_correlation_between_the_columns_of_a_seed() -> None:
    together = torch.randn(4000, 1).expand(4000, 6)
    apart = torch.randn(4000, 6)
    half = (together + torch.randn(4000, 6)) / 2**0.5
    state = layer(3, 2, 6, torch.float32)
    _, sums = seed_chunks(torch.cat([together, apart, half], 1), state, telemetry=True)
    assert sums is not None
    assert torch.allclose(correlation(sums, 6), torch.tensor([1.0, 0.0, 0.5]), atol=0.05)


@pytest.mark.parametrize("blueprint", [Blueprint.LOW_RANK, Blueprint.MLP, Blueprint.NORM])
def test_a_newborn_changes_nothing_and_can_learn(blueprint: Blueprint) -> None:
    down, up = newborn(blueprint, 10, 4, rank=3, generator=torch.Generator().manual_seed(1))
    state = SeedTensors(
        down[None].requires_grad_(), up[None].requires_grad_(), torch.ones(1),
        torch.tensor([3], dtype=torch.int32), torch.tensor([int(blueprint)], dtype=torch.int32),
    )  # fmt: skip
    x = tokens_of(8, 10, torch.float32)
    y, _ = seed_tokens(x, torch.zeros(8, dtype=torch.long), state)
    assert torch.equal(y, x)
    torch.autograd.backward(y.square().sum())
    assert state.up.grad is not None
    assert float(state.up.grad.norm()) > 0


def test_one_index_a_sequence() -> None:
    state, x = layer(4, 3, 9, torch.float32), torch.randn(5, 6, 9)
    seed_of = torch.tensor([0, 3, -1, 2, 0])
    y, _ = seed_tokens(x, seed_of, state)
    flat, _ = seed_tokens(x.view(30, 9), seed_of.repeat_interleave(6), state)
    assert torch.equal(y, flat.view(5, 6, 9))
    assert torch.equal(y[2], x[2])


@settings(max_examples=60, deadline=None)
@given(seeds=st.integers(1, 30), count=st.integers(1, 200), seed=st.integers(0, 2**31))
def test_tiles_hold_every_token_once_and_one_seed_each(seeds: int, count: int, seed: int) -> None:
    """The plan of the fused kernels, whose grid does not depend on the assignment."""
    torch.manual_seed(seed)
    seed_of = torch.randint(-2, seeds + 2, (count,))
    order, edges, owner, first = unpack(plan_tokens(seed_of, seeds), count, seeds)
    rows = tile_rows(count, seeds)
    met = []
    for tile in range(len(owner)):
        s = int(owner[tile])
        mine = order[int(first[tile]) : min(int(first[tile]) + rows, int(edges[s + 1]))]
        for token in mine.tolist():
            wanted = int(seed_of[token])
            assert s == (wanted if 0 <= wanted < seeds else seeds)
        met += mine.tolist()
    assert sorted(met) == list(range(count))


@pytest.mark.parametrize("chunked", [False, True])
def test_one_graph_under_compile_and_no_new_one_for_another_blueprint(chunked: bool) -> None:
    state = linear(4, 3, 6)
    x = torch.randn(10, 24 if chunked else 6, requires_grad=True)
    seed_of = torch.arange(10) % 4
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def model(x: Tensor, s: SeedTensors) -> Tensor:
        y = seed_chunks(x * 2, s)[0] if chunked else seed_tokens(x * 2, seed_of, s)[0]
        return y.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=backend), fullgraph=True)
    for blueprint in (Blueprint.LOW_RANK, Blueprint.NORM, Blueprint.MLP):
        state.blueprint.fill_(int(blueprint))
        state.alpha[1], state.rank[2] = 0.0, 1
        x.grad = None
        torch.autograd.backward(compiled(x, state))
        got, x.grad = x.grad, None
        torch.autograd.backward(model(x, state))
        assert got is not None
        assert x.grad is not None
        assert torch.allclose(got, x.grad, atol=1e-5)
    assert len(graphs) == 2  # forward and backward, once


def test_operators_keep_the_rules_of_torch() -> None:
    state, x = linear(3, 2, 4), torch.randn(6, 4, requires_grad=True)
    leaves = [t.requires_grad_() for t in (state.down, state.up, state.alpha)]
    arguments = (x, torch.arange(6) % 3, *leaves, state.rank, state.blueprint, None, True)
    torch.library.opcheck(torch.ops.seedbed.tokens.default, arguments)
    wide = torch.randn(5, 11, requires_grad=True)
    arguments = (wide, *leaves, state.rank, state.blueprint, True)
    torch.library.opcheck(torch.ops.seedbed.chunks.default, arguments)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"up": torch.zeros(3, 2, 5)}, "seeds.up"),
        ({"down": torch.zeros(3, 1, 4), "up": torch.zeros(3, 1, 4)}, "seeds.down"),
        ({"down": torch.zeros(3, 2, 5), "up": torch.zeros(3, 2, 5)}, "seeds.down"),
        ({"rank": torch.zeros(4, dtype=torch.int32)}, "seeds.rank"),
        ({}, "seed_of"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change: dict[str, Tensor], field: str) -> None:
    state = linear(3, 2, 4)._replace(**change)
    with pytest.raises(InvalidError, match=field):
        seed_tokens(torch.randn(6, 4), torch.arange(6 if change else 5) % 3, state)


@pytest.mark.req("ESP-18")
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with torch for CUDA only")
def test_triton_kernels_in_the_interpreter() -> None:
    """Forward, telemetry and backward of every kernel, on small grids, 1,025 seeds included."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.interpreted"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, timeout=110, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    cases = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(cases) == 13
    for case in cases:
        limit = 0.0 if case["case"] == "at rest" else 1e-5 if "fp32" in case["case"] else 1e-2
        wrong = {name: error for name, error in case["errors"].items() if not error <= limit}
        assert not wrong, case
