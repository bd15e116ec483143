"""What a caller may know before the call: the order of the tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from seedbed.crds.errors import InvalidError
from seedbed.kernels import compiled, plan_route, seed_tokens
from seedbed.kernels.batches import Routing, plan_tokens
from tests.seeds import layer, tokens_of


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    torch.manual_seed(7)


@given(
    assigned=st.integers(2, 9).flatmap(
        lambda n: st.permutations(range(n)) | st.lists(st.integers(-1, n), min_size=n, max_size=n)
    ),
    dtype=st.sampled_from([torch.int16, torch.int32, torch.int64]),
)
def test_one_token_a_seed_in_any_order(assigned: list[int], dtype: torch.dtype) -> None:
    seeds = len(assigned)
    plan = plan_tokens(torch.tensor(assigned, dtype=dtype), seeds)
    routing = Routing.of(plan, seeds, torch.device("cpu"))
    each_once = sorted(assigned) == list(range(seeds))
    assert (routing.counts is None) == each_once
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


@settings(max_examples=40, deadline=None)
@given(
    seeds=st.integers(1, 40), count=st.integers(0, 200), seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.int16, torch.int32, torch.int64]),
)  # fmt: skip
def test_the_compiled_plan_is_that_of_torch(
    seeds: int, count: int, seed: int, dtype: torch.dtype
) -> None:
    ready = compiled.loops()
    if ready is None:
        pytest.skip("numba is not installed")
    torch.manual_seed(seed)
    seed_of = torch.randint(-2, seeds + 2, (count,)).to(dtype)
    assert torch.equal(ready.plan_tokens(seed_of, seeds), plan_tokens(seed_of, seeds))


@pytest.mark.parametrize("change", ["length", "type"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_of_other_tokens_is_refused(change: str, dtype: torch.dtype) -> None:
    state, seed_of = layer(4, 2, 6, dtype), torch.tensor([3, 1, 0, 2, 1, 0])
    plan = plan_route(seed_of[: 5 if change == "length" else 6], (5 + (change == "type"),), 4)
    plan = plan.int() if change == "type" else plan
    with pytest.raises(InvalidError, match="plan"):
        seed_tokens(torch.randn(6, 6).to(dtype), seed_of, state, plan=plan)


def test_plain_torch_makes_its_tensors_where_the_layer_is() -> None:
    """On a GPU without the Triton kernels; fake tensors tell what would stand on another device."""
    routings = [
        Routing.of(plan_tokens(torch.tensor(named), 2), 4, torch.device("cpu"))
        for named in ([1, 1, 0, -1], [0, 0, 1, 1])
    ]
    with FakeTensorMode():
        gpu = torch.device("cuda")
        for routing in routings:
            assert routing.named(2, 4, gpu).is_cuda
