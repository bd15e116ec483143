"""The data of a spec, where the model can learn from them: the same verdict in every process of a group.

Data that cannot be had, or that the model cannot learn from, cost the training and nothing else. All
processes of a group learn or none does: each tells what it found, and what the first of them says is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from seedbed.crds.errors import InvalidError, RetryableError, SeedbedError
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.seeds.data import check_fit, load_data
from seedbed.runtime.seeds.group import Alone
from seedbed.runtime.seeds.shards import told_by_all
from seedbed.runtime.seeds.training import Batch, Data

Verdict = tuple[Data | None, SeedbedError | None]


def restarted() -> bool:
    """Whether a process of this group has failed before, so that nothing is taken for granted."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def fitting_data(
    answers: Callable[[Batch], Any],
    spec: SeedLayerSpec,
    group: Alone,
    epoch: int = 0,
    *,
    thorough: bool = False,
) -> Verdict:
    """The data, or why there are none to learn from; asked in every process of a group at once.

    Args:
        answers: the model's answer to a batch.
        spec: with data.
        group: of the processes that learn together.
        epoch: whose batches are tried.
        thorough: whether all of them are.
    """
    assert spec.data is not None
    data: Data | None = None
    unfit: SeedbedError | None = None
    try:
        data = load_data(spec.data, spec.training, group.device)
        check_fit(answers, data, epoch, thorough=thorough)
    except (InvalidError, RetryableError) as error:
        unfit = error
    elsewhere = refused_elsewhere(group, "" if unfit is None else unfit.message)
    unfit = unfit or elsewhere
    return (data, None) if unfit is None else (None, unfit)


def refused_elsewhere(group: Alone, mine: str) -> InvalidError | None:
    """What another process of the group says against it; every one asks this, and tells its own."""
    for rank, words in enumerate(told_by_all(group, mine)):
        if words and rank != group.rank:
            field, _, expected = words.partition(": ")
            return InvalidError(field, f"{expected} (process {rank} of the group)")
    return None
