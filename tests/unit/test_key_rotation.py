"""Keys that are added to a key ring's file by several at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seedbed.cli.checkpointing import rotate_file
from seedbed.runtime.workflow.checkpoint.keys import KeyRing, parse


def test_who_rotates_at_once_loses_nobodys_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    KeyRing.at(path)  # makes it
    before = parse(path.read_text(), str(path))
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(asyncio.run, rotate_file(path)) for _ in range(24)]
        assert [one.result(30) for one in done] == [0] * 24
    after = parse(path.read_text(), str(path))
    assert len(after) == len(before) + 24
