"""A process computes with as many threads as its pod has CPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seedbed.runtime.cpus import cpus, quota, wanted


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


def test_the_smaller_of_cores_and_limit_counts(tmp_path: Path) -> None:
    assert cpus(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert cpus(tmp_path) == 1
