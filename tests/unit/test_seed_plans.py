"""What a caller may know before the call: the order of the tokens, and that all seeds are of the usual kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from seedbed.crds.errors import InvalidError
from seedbed.kernels import SeedTensors, even, plan_route, seed_chunks, seed_tokens
from seedbed.kernels.batches import Routing, State
from seedbed.kernels.reference import reference_chunks, reference_tokens
from tests.seeds import LIMIT, errors, layer, tokens_of


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    torch.manual_seed(7)


def usual(seeds: int, rows: int, width: int) -> SeedTensors:
    """Low-rank seeds of full rank that all act."""
    state = layer(seeds, rows, width, torch.float32, resting=0.0)
    return state._replace(
        rank=torch.full((seeds,), rows, dtype=torch.int32),
        blueprint=torch.zeros(seeds, dtype=torch.int32),
    )


@given(
    assigned=st.integers(2, 9).flatmap(
        lambda n: st.permutations(range(n)) | st.lists(st.integers(-1, n), min_size=n, max_size=n)
    ),
    dtype=st.sampled_from([torch.int16, torch.int32, torch.int64]),
)
def test_one_token_a_seed_in_any_order(assigned: list[int], dtype: torch.dtype) -> None:
    seeds = len(assigned)
    routing = Routing.of(torch.tensor(assigned, dtype=dtype), seeds)
    each_once = sorted(assigned) == list(range(seeds))
    assert routing.even(seeds) == each_once
    x = torch.arange(seeds, dtype=torch.float32)[:, None]
    sorted_by_seed = [assigned[int(row)] for row in routing.into(x)[:, 0]]
    named = [seed if 0 <= seed < seeds else seeds for seed in sorted_by_seed]
    assert named == sorted(named)
    assert torch.equal(routing.back(routing.into(x)), x)


@settings(max_examples=40, deadline=None)
@given(
    seeds=st.integers(1, 12), count=st.integers(0, 60),
    kind=st.sampled_from(["even", "sorted", "mixed"]), telemetry=st.booleans(),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_a_plan_changes_nothing_but_the_time(
    seeds: int, count: int, kind: str, telemetry: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    state, x = layer(seeds, 3, 6, torch.float32), tokens_of(count, 6, torch.float32)
    seed_of = torch.randint(-1, seeds + 1, (count,))
    if kind == "sorted":
        seed_of = seed_of.sort().values
    if kind == "even" and count >= seeds:
        x = x[: count - count % seeds]
        seed_of = torch.arange(seeds).repeat_interleave(len(x) // seeds)
    plan = plan_route(seed_of, (len(x),), seeds)
    found, saw = seed_tokens(x, seed_of, state, telemetry=telemetry)
    planned, also = seed_tokens(x, seed_of, state, plan=plan, telemetry=telemetry)
    assert torch.equal(found, planned)
    if telemetry:
        assert saw is not None
        assert also is not None
        assert torch.equal(saw, also)
    gradients: list[torch.Tensor] = []
    for known in (None, plan):
        leaf = x.clone().requires_grad_()
        y, _ = seed_tokens(leaf, seed_of, state, plan=known)
        gradients += torch.autograd.grad(y.square().sum(), leaf)
    assert torch.equal(*gradients)


def test_a_plan_of_other_tokens_is_refused() -> None:
    state, seed_of = usual(4, 2, 6), torch.tensor([3, 1, 0, 2, 1])
    plan = plan_route(seed_of, (5,), 4)
    with pytest.raises(InvalidError, match="plan"):
        seed_tokens(torch.randn(6, 6), torch.zeros(6, dtype=torch.int64), state, plan=plan)


# Few tokens, more than rows of `up` are summed for, and so many that blocks of seeds go one by one.
@pytest.mark.req("ESP-18")
@pytest.mark.parametrize("each", [1, 4, even.FEW + 1, 90])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("rows", [4, even.THIN + 1])
def test_even_blocks_agree_with_the_reference(
    each: int, mixed: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(even, "CACHED", 1 << 12)
    seeds, width = 33, 12
    state, x = usual(seeds, rows, width), torch.randn(seeds * each, width)
    seed_of = torch.arange(seeds).repeat_interleave(each)
    if mixed:
        seed_of = seed_of[torch.randperm(len(seed_of))]
    before = x.clone()
    want, _ = reference_tokens(x, seed_of, state)
    plan = plan_route(seed_of, (len(x),), seeds)
    for known in (False, True):
        y, _ = seed_tokens(x, seed_of, state, plan=plan, usual=known)
        assert errors(y=(y, want))["y"] <= LIMIT[torch.float32]
    assert torch.equal(x, before)
    wide = torch.randn(each, seeds * width)
    y, _ = seed_chunks(wide, state, usual=True)
    want, _ = reference_chunks(wide, state)
    assert errors(y=(y, want))["y"] <= LIMIT[torch.float32]


@pytest.mark.parametrize("each", [1, even.FEW + 1])
def test_a_tenant_whose_numbers_are_not_finite_stays_alone(each: int) -> None:
    state = usual(8, 4, 16)
    x = torch.randn(8 * each, 16)
    seed_of = torch.arange(8).repeat_interleave(each)
    want, _ = seed_tokens(x, seed_of, state, usual=True)
    state.up[3], state.down[5], x[each] = float("inf"), float("nan"), float("nan")
    y, _ = seed_tokens(x, seed_of, state, usual=True)
    healthy = (seed_of != 1) & (seed_of != 3) & (seed_of != 5)
    assert torch.equal(y[healthy], want[healthy])
    assert not bool(torch.isfinite(y[seed_of == 5]).any())


def test_plain_torch_makes_its_tensors_where_the_layer_is() -> None:
    """On a GPU without the Triton kernels; fake tensors tell what would stand on another device."""
    routing = Routing.of(torch.tensor([1, 1, 0, -1]), 2)
    with FakeTensorMode():
        gpu = torch.device("cuda")
        state = State(*(tensor.to(gpu) for tensor in usual(4, 3, 8)))
        for each in (2, even.FEW + 1):
            assert even.tokens(torch.randn(4 * each, 8, device=gpu), state, mine=False).is_cuda
            assert even.chunks(torch.randn(each, 32, device=gpu), state).is_cuda
        for one in (Routing(None, None, None), routing):
            assert one.named(2, 4, gpu).is_cuda
