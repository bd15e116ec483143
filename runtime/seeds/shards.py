"""What all processes of a group do together for one checkpoint: each writes its shard, and all agree."""

from __future__ import annotations

import logging

import torch

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.seeds import checkpoint
from seedbed.runtime.seeds.group import Alone
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.places import CheckpointPlace

_WORDS = 512
"""Bytes of what each may say."""
_log = logging.getLogger(__name__)


def store_shard(model: SeededModel, place: CheckpointPlace, number: int) -> int:
    """Write what of a checkpoint each process has of its own, in every process; gives the bytes of all.

    Raises:
        UnavailableError: the place did not take one.
    """
    group = model.group
    if not group.sharded:
        return 0
    failed, size = False, 0
    try:
        size = place.store_shard(
            number, group.rank, group.size, lambda path: checkpoint.save_shard(model, path)
        )
    except UnavailableError as error:
        _log.warning("%s", error)
        failed = True
    sizes = torch.tensor([size])
    group.add([sizes])
    if agree(group, failed=failed):
        raise UnavailableError("a shard of the checkpoint was not taken: see the logs of the group")
    return int(sizes)


def agree(group: Alone, *, failed: bool = False) -> int:
    """How many processes of the group have failed in what all were to do; every one asks this."""
    found = torch.tensor([int(failed)])
    group.add([found])
    return int(found)


def told_by_all(group: Alone, words: str) -> list[str]:
    """What each process of the group says, the first one's first; every one asks this and tells its own."""
    mine = words.encode()[:_WORDS]
    rows = torch.zeros(group.size, _WORDS, dtype=torch.int32)
    rows[group.rank, : len(mine)] = torch.tensor(list(mine), dtype=torch.int32)
    group.add([rows])
    return [bytes(row[row > 0].tolist()).decode(errors="ignore") for row in rows]
