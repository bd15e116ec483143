"""Torch computes with as many threads as its pod has CPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from seedbed.runtime.seeds.threads import limit_threads


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_torch_is_held_to_the_limit_unless_somebody_has_decided(tmp_path: Path) -> None:
    torch.set_num_threads(3)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert limit_threads({"OMP_NUM_THREADS": "3"}, tmp_path) == 3
    assert limit_threads({}, tmp_path) == 1
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert limit_threads({}, tmp_path) == len(os.sched_getaffinity(0))
