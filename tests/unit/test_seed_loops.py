"""The compiled loops of the CPU path, and what computes where they cannot be had."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seedbed.kernels import (
    SeedTensors,
    chunk_width,
    compiled,
    plan_route,
    prepare,
    seed_chunks,
    seed_tokens,
)
from seedbed.kernels.reference import reference_chunks, reference_tokens
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.features import Features
from tests.seeds import LIMIT, errors, layer, tokens_of

with_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    compiled.loops.cache_clear()


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    compiled.loops.cache_clear()


def both(x: Tensor, seed_of: Tensor, state: SeedTensors) -> tuple[Tensor, Tensor]:
    """Output and sums of tokens."""
    y, sums = seed_tokens(x, seed_of, state, telemetry=True)
    assert sums is not None
    return y, sums


@with_numba
@pytest.mark.req("ESP-18")
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("seeds", [1, 1024, 1025])
def test_as_many_threads_as_torch_has(
    threads: int, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The busiest seed's tokens are work of several threads."""
    monkeypatch.setattr(compiled, "GRAIN", 64)
    state, x = layer(seeds, 9, 20, torch.float32), tokens_of(3000, 20, torch.float32)
    seed_of = (torch.rand(3000) ** 3 * (seeds + 2)).long() - 1
    want, saw = reference_tokens(x, seed_of, state)
    torch.set_num_threads(threads)
    y, sums = both(x, seed_of, state)
    found = errors(y=(y, want), sums=(sums, saw))
    assert found["y"] <= LIMIT[torch.float32]
    assert found["sums"] <= 1e-5
    quiet, _ = seed_tokens(x, seed_of, state, plan=plan_route(seed_of, (3000,), seeds))
    assert errors(y=(quiet, want))["y"] <= LIMIT[torch.float32]
    wide = tokens_of(7, seeds * 3 + 1, torch.float32)
    state = layer(seeds, 5, chunk_width(seeds * 3 + 1, seeds), torch.float32)
    y, found_sums = seed_chunks(wide, state, telemetry=True)
    want, saw = reference_chunks(wide, state)
    assert found_sums is not None
    assert errors(y=(y, want))["y"] <= LIMIT[torch.float32]
    assert errors(sums=(found_sums, saw))["sums"] <= 1e-5


@with_numba
def test_calls_from_several_threads_at_once() -> None:
    cases = []
    for _ in range(8):
        state, x = layer(50, 8, 64, torch.float32), tokens_of(2000, 64, torch.float32)
        seed_of = torch.randint(0, 50, (2000,))
        cases.append((x, seed_of, state, both(x, seed_of, state)[0]))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for y, case in zip(
                pool.map(lambda case: both(*case[:3])[0], cases), cases, strict=True
            ):
                assert torch.equal(y, case[3])


@with_numba
def test_one_thread_does_all_where_torchs_own_are_not_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch.py"))
    compiled.loops.cache_clear()
    ready = compiled.loops()
    assert ready is not None
    assert ready.team is None
    state, x = layer(9, 4, 64, torch.float32), tokens_of(2000, 64, torch.float32)
    seed_of = torch.randint(0, 9, (2000,))
    want, _ = reference_tokens(x, seed_of, state)
    assert errors(y=(both(x, seed_of, state)[0], want))["y"] <= LIMIT[torch.float32]


@pytest.mark.parametrize("each", [1, 33])
@pytest.mark.parametrize("path", ["compiled", "torch"])
def test_a_tenant_whose_numbers_are_not_finite_stays_alone(
    each: int, path: str, request: pytest.FixtureRequest
) -> None:
    if path == "torch":
        request.getfixturevalue("no_numba")
    state = layer(8, 5, 16, torch.float32, resting=0.0)
    state.rank.fill_(5)
    state.blueprint.zero_()
    x, seed_of = torch.randn(8 * each, 16), torch.arange(8).repeat_interleave(each)
    want, _ = seed_tokens(x, seed_of, state)
    state.up[3], state.down[5], x[each] = float("inf"), float("nan"), float("nan")
    y, _ = seed_tokens(x, seed_of, state)
    healthy = (seed_of != 1) & (seed_of != 3) & (seed_of != 5)
    assert torch.equal(y[healthy], want[healthy])
    assert not bool(torch.isfinite(y[seed_of == 5]).any())
    assert not bool(torch.isfinite(y[seed_of == 3]).any())
    assert not bool(torch.isfinite(y[each]).any())


@with_numba
def test_rows_past_a_rank_are_not_read() -> None:
    state = layer(3, 6, 10, torch.float32, resting=0.0)._replace(
        rank=torch.tensor([2, 4, 5], dtype=torch.int32), blueprint=torch.zeros(3, dtype=torch.int32)
    )
    x, seed_of = torch.randn(30, 10), torch.arange(30) % 3
    want, _ = seed_tokens(x, seed_of, state)
    for s, rank in enumerate(state.rank.tolist()):
        state.down[s, rank:] = state.up[s, rank:] = float("nan")
    assert torch.equal(seed_tokens(x, seed_of, state)[0], want)


@pytest.mark.usefixtures("no_numba")
@settings(max_examples=30, deadline=None)
@given(
    seeds=st.integers(1, 40), rows=st.integers(2, 9), width=st.integers(1, 40),
    count=st.integers(0, 120), planned=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_without_numba_torch_computes(
    seeds: int, rows: int, width: int, count: int, planned: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    assert not prepare()
    state, x = layer(seeds, rows, width, torch.float32), tokens_of(count, width, torch.float32)
    seed_of = torch.randint(-1, seeds + 1, (count,))
    plan = plan_route(seed_of, (count,), seeds) if planned else None
    want, saw = reference_tokens(x, seed_of, state)
    y, sums = seed_tokens(x, seed_of, state, plan=plan, telemetry=True)
    quiet, _ = seed_tokens(x, seed_of, state, plan=plan)
    assert sums is not None
    found = errors(y=(y, want), quiet=(quiet, want), sums=(sums, saw))
    assert max(found["y"], found["quiet"]) <= LIMIT[torch.float32]
    assert found["sums"] <= 1e-4
    wide = tokens_of(4, seeds * width, torch.float32)
    want, _ = reference_chunks(wide, state)
    assert errors(y=(seed_chunks(wide, state)[0], want))["y"] <= LIMIT[torch.float32]


@with_numba
def test_a_numba_that_cannot_be_imported_is_told_of_and_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "seedbed.kernels.loops", None)
    compiled.loops.cache_clear()
    assert not prepare()
    assert "without compiled loops" in caplog.text
    state, x = layer(3, 2, 4, torch.float32), tokens_of(6, 4, torch.float32)
    want, _ = reference_tokens(x, torch.arange(6) % 3, state)
    assert errors(y=(seed_tokens(x, torch.arange(6) % 3, state)[0], want))["y"] <= 1e-5


@with_numba
def test_who_only_imports_the_kernels_does_not_pay_for_numba() -> None:
    program = "import sys, seedbed.kernels; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


def test_a_model_is_ready_before_its_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("seedbed.runtime.seeds.attach.prepare", lambda: asked.append(True))
    attach(nn.Sequential(nn.Linear(3, 8)), AttachSpec(("0",), 2), Features.all_on())
    assert asked == [True]
    attach(nn.Sequential(nn.Linear(3, 8)), AttachSpec(("0",), 2), Features())
    assert asked == [True]


@with_numba
def test_where_nothing_can_be_written_the_loops_are_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container whose files are read only; numba then refuses to keep what it has compiled."""
    loops: Any = importlib.import_module("seedbed.kernels.loops")
    caching: Any = importlib.import_module("numba.core.caching")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def nothing(_call: object) -> None: ...

    assert loops.compiled(nothing).address
