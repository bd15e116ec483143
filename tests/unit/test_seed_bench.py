"""The benchmark of the GPU, rehearsed on the CPU: whatever would raise costs nobody a GPU."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest

from hack.bench import apart, seeds_checks, seeds_h200, seeds_timing
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
        result[name] = seeds_h200.first(name)
        seeds_h200.others(name, result[name])
        seeds_h200.tune(name, result[name])
        seeds_h200._judged(result[name], 1e9)
        assert result[name]["relative_error"] < 1e-2
        assert result[name]["microseconds"] > 0
    seeds_h200.table(result)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(SHAPES)
    for name in ("D1", "M1", "L1", "H1", "Z1"):
        assert result[name]["vs_best_baseline"] > 0
    assert "no norm" in result["X1"]["baselines_us"]["grouped_mm"]


def test_rest_and_swap_run() -> None:
    assert seeds_checks.at_rest()["share_of_host"] > 0
    assert max(seeds_checks.swapped()["relative_errors"]) < 1e-2


def test_a_job_that_fails_or_comes_too_late_says_so() -> None:
    def broken() -> None:
        raise MemoryError("too much")

    assert "too much" in seeds_h200._told("one", broken, float("inf"))
    assert seeds_h200._told("one", functools.partial(int, "7"), float("inf")) == 7
    assert "were over" in seeds_h200._told("late", broken, float("-inf"))


class Elsewhere:
    """Stands for the other processes: each does some jobs, and then hangs, dies or cannot go on."""

    def __init__(self, *lives: list[object]) -> None:
        self.lives, self.given = list(lives), [list[str]()]

    def Pipe(self) -> tuple[Any, Any]:  # noqa: N802 - multiprocessing's name
        return self, self

    def Process(self, target: object, args: tuple[Any, ...]) -> Any:  # noqa: N802 - likewise
        assert target is seeds_h200.worker
        self.given.append(list(args[0]))
        self.answers, self.result = self.lives.pop(0), dict(args[1])
        self.labels = list(args[0])
        return self

    def start(self) -> None:
        """Nothing: it answers when it is asked."""

    kill = join = close = start

    def poll(self, _: float) -> bool:
        return self.answers[0] != "hangs"

    def recv(self) -> tuple[dict[str, Any], bool]:
        answer = self.answers.pop(0)
        if answer == "dies":
            raise EOFError
        self.result[self.labels.pop(0)] = answer
        return dict(self.result), answer != "broken device"


def test_a_job_that_hangs_or_takes_the_device_along_costs_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seeds_h200, "JOBS", dict.fromkeys("abcdef", int))
    monkeypatch.setattr(seeds_h200, "MORE", {})
    there = Elsewhere(["fine", "hangs"], ["dies"], ["broken device"], ["fine", "fine"])
    monkeypatch.setattr("multiprocessing.get_context", lambda _: there)
    result = apart.apart(
        "abcdef", {}, seeds_h200.worker, seeds_h200._lost, each=1.0, until=float("inf")
    )
    assert there.given[1:] == [list("abcdef"), list("cdef"), list("def"), list("ef")]
    assert [result[name] for name in "adef"] == ["fine", "broken device", "fine", "fine"]
    assert "took too long" in result["b"]
    assert "lost" in result["c"]


def test_a_job_of_another_process_comes_back() -> None:
    ours, theirs = multiprocessing.Pipe()
    before = {"rehearsal": True, "begun": float("inf")}
    seeds_h200.worker(["copy_bandwidth"], before, theirs)
    result, usable = ours.recv()
    assert usable
    assert result["copy_bandwidth"] > 0


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert seeds_h200.measured() == "not measured: no CUDA device at hand"
