"""The stages of a seed's life and the moves between them, as one table. Pure; see ADR 24.

    DORMANT ─► GERMINATED ─► TRAINING ─► GRAFTING ─► STABILISATION ─► EVALUATING ─► FINE_TUNING ─► FOSSILISED

A seed that does not serve leaves by CANCELLED (before it acts), CULLED (it brought nothing) or ROLLED_BACK
(it did harm while it acted), and its slot sleeps again after an embargo. FOSSILISED is the only end.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from seedbed.crds.errors import ConflictError


class Stage(IntEnum):
    """Where a seed stands. The numbers are part of the checkpoint's format."""

    DORMANT = 0
    GERMINATED = 1
    TRAINING = 2
    GRAFTING = 3
    STABILISATION = 4
    EVALUATING = 5
    FINE_TUNING = 6
    FOSSILISED = 7
    CULLED = 8
    CANCELLED = 9
    ROLLED_BACK = 10

    @property
    def label(self) -> str:
        """The name as users read it, such as `FineTuning`."""
        return "".join(part.title() for part in self.name.split("_"))


Table = Mapping[Stage, frozenset[Stage]]


def _table(rows: Mapping[Stage, tuple[Stage, ...]]) -> Table:
    return MappingProxyType({stage: frozenset(rows.get(stage, ())) for stage in Stage})


_ENDS_OF_A_TRY = {
    Stage.CULLED: (Stage.DORMANT,),
    Stage.CANCELLED: (Stage.DORMANT,),
    Stage.ROLLED_BACK: (Stage.DORMANT,),
}

EXTENDED: Table = _table(
    {
        Stage.DORMANT: (Stage.GERMINATED,),
        Stage.GERMINATED: (Stage.TRAINING, Stage.CANCELLED),
        Stage.TRAINING: (Stage.GRAFTING, Stage.CULLED, Stage.CANCELLED),
        Stage.GRAFTING: (Stage.STABILISATION, Stage.ROLLED_BACK),
        Stage.STABILISATION: (Stage.EVALUATING, Stage.ROLLED_BACK),
        Stage.EVALUATING: (Stage.FINE_TUNING, Stage.CULLED, Stage.ROLLED_BACK),
        Stage.FINE_TUNING: (Stage.FOSSILISED, Stage.CULLED, Stage.ROLLED_BACK),
        **_ENDS_OF_A_TRY,
    }
)
"""Every allowed move of the extended lifecycle."""

SHORT: Table = _table(
    {
        Stage.DORMANT: (Stage.GERMINATED,),
        Stage.GERMINATED: (Stage.TRAINING, Stage.CANCELLED),
        Stage.TRAINING: (Stage.GRAFTING, Stage.CULLED, Stage.CANCELLED),
        Stage.GRAFTING: (Stage.FOSSILISED, Stage.ROLLED_BACK),
        **_ENDS_OF_A_TRY,
    }
)
"""The moves with the extended lifecycle switched off: what is grafted without harm is kept."""

ACTIVE = frozenset(stage for stage in Stage if Stage.GERMINATED <= stage <= Stage.FINE_TUNING)
"""A try is under way; the limit of active seeds counts these."""

ACTING = frozenset(stage for stage in Stage if Stage.GRAFTING <= stage <= Stage.FOSSILISED)
"""The seed may change what the model answers."""

LEARNING = frozenset({Stage.TRAINING, Stage.FINE_TUNING})
"""The seed's weights change in a training step."""

STEPPING = LEARNING | {Stage.GRAFTING}
"""A training step concerns the seed: it learns, or its alpha rises and its gradient is watched."""

ENDED_BADLY = frozenset({Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK})
"""The try is over and leaves no weights behind."""

FAILURES = frozenset({Stage.CULLED, Stage.ROLLED_BACK})
"""Ends that count against the slot; a cancelled try does not."""


class TransitionError(ConflictError):
    """A seed was asked for a move that its stage does not allow.

    Attributes:
        seed: its index over all layers, or -1 where no certain seed is meant.
        source: its stage.
        target: the stage asked for.
    """

    code = "transition"

    def __init__(self, seed: int, source: Stage, target: Stage) -> None:
        super().__init__(f"seed {seed} is {source.label} and cannot become {target.label}")
        self.seed = seed
        self.source = source
        self.target = target


def check(source: Stage, target: Stage, table: Table = EXTENDED) -> None:
    """Raise TransitionError where the move is not in the table."""
    if target not in table[source]:
        raise TransitionError(-1, source, target)
