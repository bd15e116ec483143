"""The benchmark of the GPU, rehearsed on the CPU: whatever would raise costs nobody a GPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from hack.bench import seeds_h200, seeds_timing
from hack.bench.seeds_case import SHAPES


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(seeds_timing._Where, "device", "cpu")
    yield
    fused = pytest.importorskip("seedbed.kernels.fused")
    fused.tuned.clear()


def test_every_shape_runs_and_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton")
    result: dict[str, Any] = {}
    for name in SHAPES:
        result[name] = seeds_h200.first(name, 1e9)
        seeds_h200.tune(name, result[name])
        seeds_h200._judged(result[name])
        assert result[name]["relative_error"] < 1e-2
        assert result[name]["microseconds"] > 0
    seeds_h200.table(result)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(SHAPES)
    for name in ("D1", "M1", "L1", "H1", "Z1"):
        assert result[name]["vs_best_baseline"] > 0
    assert "no norm" in result["X1"]["baselines_us"]["grouped_mm"]


def test_rest_and_swap_run() -> None:
    assert seeds_h200.at_rest()["share_of_host"] > 0
    assert max(seeds_h200.swapped()["relative_errors"]) < 1e-2


def test_a_job_that_fails_or_comes_too_late_says_so() -> None:
    def broken() -> None:
        raise MemoryError("too much")

    assert "too much" in seeds_h200._done("one", broken, float("inf"))
    assert seeds_h200._done("one", functools.partial(int, "7"), float("inf")) == 7
    assert "were over" in seeds_h200._done("late", broken, float("-inf"))


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert seeds_h200.measured() == "not measured: no CUDA device at hand"
