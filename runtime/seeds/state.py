"""The state of all seeds of a model as a few tensors: a structure of arrays, 108 bytes a seed.

Seeds are numbered over all layers, one layer after another. Nothing here loops over seeds or waits for
the device: a move of thousands of seeds is a table look-up and a handful of element-wise operations. What
a move was refused comes back as a mask, which the caller may look at when it wants to wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.stages import (
    ACTING,
    ACTIVE,
    ENDED_BADLY,
    EXTENDED,
    FAILURES,
    LEARNING,
    STEPPING,
    Stage,
    Table,
)

KEPT_MOVES = 10
"""Moves that are remembered of each seed, newest first."""

_LAST_EPOCH = (1 << 23) - 1
"""Greatest epoch that a note of a move has room for; later ones are noted as this one."""

STAY = -1
"""In a tensor of targets: this seed does not move."""

SCORE_UNIT = 1e-6
"""What one of the integers in `Core.SCORE` means: a millionth of accuracy."""


class Core(IntEnum):
    """Columns of the int32 state."""

    STAGE = 0
    BLUEPRINT = 1  # number in the specification's blueprints, from 1; 0 for none
    EPOCHS = 2  # ends of epochs seen in this stage
    STRATEGY = 3
    PARENT = 4  # the stage before this one
    CHECKPOINT = 5  # number of the last checkpoint that holds this seed
    SCORE = 6  # what the seed brings, in SCORE_UNIT
    FAILURES = 7  # tries of this slot that failed


class Metric(IntEnum):
    """Columns of the float32 health of the last epoch."""

    VARIANCE = 0
    DEAD = 1
    CORRELATION = 2
    DRIFT = 3


class Graft(IntEnum):
    """Columns of the float32 state of blending."""

    ALPHA = 0
    VELOCITY = 1
    PAUSED = 2  # steps left to wait
    GRADIENT = 3  # norm of the seed's gradient at the last step
    EFFECT = 4  # |f(x)| / |x| at the last epoch's end; drift is how much that changed


@dataclass(slots=True)
class SeedState:
    """All seeds of one model.

    Attributes:
        core: int32 (seeds x 8), see Core.
        metrics: float32 (seeds x 4), see Metric.
        graft: float32 (seeds x 5), see Graft.
        moves: int32 (seeds x 10), the last moves, newest first: epoch * 256 + source * 16 + target; -1
            where there was none.
        table: which moves are allowed.
    """

    core: Tensor
    metrics: Tensor
    graft: Tensor
    moves: Tensor
    table: Table = field(default_factory=lambda: EXTENDED)
    _allowed: Tensor = field(init=False, repr=False)
    _flags: Mapping[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        device = self.core.device
        self._allowed = torch.tensor(
            [[to in self.table[source] for to in Stage] for source in Stage], device=device
        )
        self._flags = {
            name: torch.tensor([stage in stages for stage in Stage], device=device)
            for name, stages in _GROUPS.items()
        }

    @classmethod
    def dormant(
        cls, count: int, device: torch.device | str = "cpu", table: Table = EXTENDED
    ) -> SeedState:
        """So many sleeping seeds."""
        return cls(
            torch.zeros(count, len(Core), dtype=torch.int32, device=device),
            torch.zeros(count, len(Metric), device=device),
            torch.zeros(count, len(Graft), device=device),
            torch.full((count, KEPT_MOVES), -1, dtype=torch.int32, device=device),
            table,
        )

    def __len__(self) -> int:
        return self.core.shape[0]

    @property
    def stage(self) -> Tensor:
        """Stage of each seed, int32; a view."""
        return self.core[:, Core.STAGE]

    @property
    def alpha(self) -> Tensor:
        """How much each seed changes what the model answers, 0 to 1; a view."""
        return self.graft[:, Graft.ALPHA]

    @property
    def bytes_per_seed(self) -> int:
        """What one seed's state takes, without its weights."""
        return sum(t.shape[1] * t.element_size() for t in self.tensors().values())

    def members(self, group: str) -> Tensor:
        """Mask of the seeds in a group of stages: active, acting, learning, stepping, ended or failed."""
        return self._flags[group][self.stage.long()]

    def at(self, *stages: Stage) -> Tensor:
        """Mask of the seeds in any of these stages."""
        return torch.isin(self.stage, torch.tensor(stages, device=self.core.device))

    def training_alpha(self) -> Tensor:
        """Like `alpha`, but seeds in training act fully: they learn unseen by those who are served."""
        return torch.where(self.stage == Stage.TRAINING, 1.0, self.alpha)

    def move(self, targets: Tensor, epoch: int) -> Tensor:
        """Move every seed to its target, where its stage allows it.

        Args:
            targets: integer (seeds), a Stage or STAY for each.
            epoch: the boundary at which this happens.

        Returns:
            Mask of the seeds that moved. The others are left as they were.
        """
        stage, wanted = self.stage.clone(), targets.to(torch.int32)
        known = (wanted >= 0) & (wanted < len(Stage))
        moved = known & self._allowed[stage.long(), torch.where(known, wanted, 0).long()]
        now = torch.where(moved, wanted, stage)
        told = min(epoch, _LAST_EPOCH) * 256 + stage * 16 + now
        shifted = torch.cat((told[:, None], self.moves[:, :-1]), dim=1)
        self.moves.copy_(torch.where(moved[:, None], shifted, self.moves))
        self._rewrite(moved, stage, now)
        self._reblend(moved, now)
        return moved

    def _rewrite(self, moved: Tensor, before: Tensor, now: Tensor) -> None:
        slept = moved & (now == Stage.DORMANT)
        core = self.core
        core[:, Core.STAGE] = now
        core[:, Core.PARENT] = torch.where(moved, before, core[:, Core.PARENT])
        core[:, Core.EPOCHS].masked_fill_(moved, 0)
        core[:, Core.FAILURES] += moved & self._flags["failed"][now.long()]
        for column in (Core.BLUEPRINT, Core.STRATEGY, Core.SCORE):
            core[:, column].masked_fill_(slept, 0)

    def _reblend(self, moved: Tensor, now: Tensor) -> None:
        """A seed starts its graft with nothing, holds it fully afterwards, and leaves none behind."""
        full = moved & self._flags["acting"][now.long()] & (now != Stage.GRAFTING)
        effect = self.graft[:, Graft.EFFECT].clone()
        self.graft.masked_fill_((moved & ~full)[:, None], 0.0)
        self.graft[:, Graft.EFFECT] = torch.where(self._flags["active"][now.long()], effect, 0.0)
        self.graft[:, Graft.ALPHA].masked_fill_(full, 1.0)
        self.graft[:, Graft.PAUSED].masked_fill_(full, 0.0)

    def plant(self, seeds: Tensor, blueprint: Tensor | int, strategy: Tensor | int) -> None:
        """Note what the masked seeds are to grow from and how they will be blended in."""
        for column, value in ((Core.BLUEPRINT, blueprint), (Core.STRATEGY, strategy)):
            old = self.core[:, column]
            new = torch.as_tensor(value, dtype=torch.int32, device=old.device)
            self.core[:, column] = torch.where(seeds, new, old)

    def score(self, seeds: Tensor, gain: float) -> None:
        """Note what the masked seeds brought together: a difference of accuracies."""
        self.core[:, Core.SCORE].masked_fill_(seeds, round(gain / SCORE_UNIT))

    def end_epoch(self) -> None:
        """Every seed has spent one more epoch in its stage."""
        self.core[:, Core.EPOCHS] += 1

    def counts(self) -> dict[Stage, int]:
        """How many seeds stand in each stage. Waits for the device."""
        found = torch.bincount(self.stage.long(), minlength=len(Stage)).tolist()
        return dict(zip(Stage, found, strict=True))

    def history(self, seed: int) -> list[tuple[int, Stage, Stage]]:
        """The last moves of a seed, newest first: epoch, from, to. Waits for the device."""
        told = [one for one in self.moves[seed].tolist() if one >= 0]
        return [(one >> 8, Stage(one >> 4 & 15), Stage(one & 15)) for one in told]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint has to hold."""
        return {
            "core": self.core,
            "metrics": self.metrics,
            "graft": self.graft,
            "moves": self.moves,
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state of a checkpoint over, bit for bit.

        Raises:
            InvalidError: a tensor is missing or of another form, or a stage is none of the known ones.
        """
        for name, mine in self.tensors().items():
            theirs = tensors.get(name)
            if theirs is None or theirs.shape != mine.shape or theirs.dtype != mine.dtype:
                raise InvalidError(f"state.{name}", f"expected {mine.dtype} {tuple(mine.shape)}")
        stages = tensors["core"][:, Core.STAGE]
        if stages.numel() and not bool(((stages >= 0) & (stages < len(Stage))).all()):
            raise InvalidError("state.core", f"expected stages from 0 to {len(Stage) - 1}")
        for name, mine in self.tensors().items():
            mine.copy_(tensors[name])

    def to(self, device: torch.device | str) -> SeedState:
        """A copy of the state, on a device."""
        core, metrics, graft, moves = (
            tensor.to(device, copy=True) for tensor in self.tensors().values()
        )
        return SeedState(core, metrics, graft, moves, self.table)


_GROUPS: Mapping[str, Iterable[Stage]] = {
    "active": ACTIVE,
    "acting": ACTING,
    "learning": LEARNING,
    "stepping": STEPPING,
    "ended": ENDED_BADLY,
    "failed": FAILURES,
}
