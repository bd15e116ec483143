"""A pod computes with as many threads as its CPU limit allows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from seedbed.runtime.seeds.threads import limit_threads, quota, wanted


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("written", "allowed"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("", None)],
)
def test_the_quota_of_version_two(tmp_path: Path, written: str, allowed: float | None) -> None:
    (tmp_path / "cpu.max").write_text(written)
    assert quota(tmp_path) == allowed


@pytest.mark.parametrize(("limit", "allowed"), [("-1", None), ("400000", 4.0)])
def test_the_quota_of_version_one(tmp_path: Path, limit: str, allowed: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{limit}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota(tmp_path) == allowed


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert quota(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("cores", "allowed", "threads"),
    [(64, None, 64), (64, 1.5, 2), (64, 0.25, 1), (2, 8.0, 2), (64, 4.0, 4)],
)
def test_a_part_of_a_cpu_counts_as_one(cores: int, allowed: float | None, threads: int) -> None:
    assert wanted(cores, allowed) == threads


def test_torch_is_held_to_the_limit_unless_somebody_has_decided(tmp_path: Path) -> None:
    torch.set_num_threads(3)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert limit_threads({"OMP_NUM_THREADS": "3"}, tmp_path) == 3
    assert limit_threads({}, tmp_path) == 1
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert limit_threads({}, tmp_path) == len(os.sched_getaffinity(0))
