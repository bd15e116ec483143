"""Fits a checkpoint to a specification that has changed since: what still has its place goes there.

A seed keeps its place where its layer, its number and what it grew from are still there and, with routing
by chunk, where the layer is cut as before. What is new sleeps. A seed on its way that has lost its place
sleeps again. A fossil may not be lost: it is what the model answers with, so the checkpoint is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, SeedState

Plan = Mapping[str, Any]
_SHOWN = 3
_log = logging.getLogger(__name__)


class UnfitError(InvalidError):
    """A checkpoint cannot be taken over under this specification."""

    code = "unfit_checkpoint"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of a plan, and where its seeds stand among all."""

    at: int
    first: int
    name: str
    seeds: int
    routing: str
    reads: str
    rows: int
    width: int

    def same(self, other: _Layer) -> bool:
        """Whether a number means the same columns, or the same tokens, in both."""
        cut = self.routing == "token" or self.seeds == other.seeds
        form = (self.routing, self.reads, self.width) == (other.routing, other.reads, other.width)
        return cut and form


def refit(tensors: Mapping[str, Tensor], before: Plan, now: Plan) -> dict[str, Tensor]:
    """The tensors of a checkpoint as if they had been written under the plan of now.

    Raises:
        UnfitError: it is of another model, or a fossil would be lost.
    """
    if before["host"] != now["host"]:
        raise UnfitError("checkpoint", "it is of another model: the host's parameters differ")
    if before["extended"] != now["extended"]:
        raise UnfitError("checkpoint", "its lifecycle is another one: extended_lifecycle differs")
    old, new = _layers(before), {each.name: each for each in _layers(now)}
    kinds = _kinds(before, now)
    core = tensors["state.core"]
    target = torch.full((len(core),), -1)
    for layer in old:
        into = new.get(layer.name)
        if into is not None and layer.same(into):
            count = min(layer.seeds, into.seeds)
            target[layer.first : layer.first + count] = into.first + torch.arange(count)
    lost = kinds[core[:, Core.BLUEPRINT].long()] < 0
    _refuse_lost(core, (target < 0) | lost, old, new, kinds, before["blueprints"])
    target = torch.where(lost, -1, target)
    slept = int(((target < 0) & (core[:, Core.BLUEPRINT] > 0)).sum())
    if slept:
        _log.warning("%d seeds on their way have no place any more and sleep again", slept)
    found = {name: each for name, each in tensors.items() if name.startswith("progress.")}
    found |= _state(tensors, target, kinds, sum(each.seeds for each in new.values()))
    for into in new.values():
        source = next((each for each in old if each.name == into.name), None)
        found |= dict(_weights(tensors, source, into, target))
    return found


def _layers(plan: Plan) -> list[_Layer]:
    found, first = [], 0
    for at, (name, seeds, routing, reads, _, rows, width) in enumerate(plan["layers"]):
        found.append(_Layer(at, first, name, seeds, routing, reads, rows, width))
        first += seeds
    return found


def _kinds(before: Plan, now: Plan) -> Tensor:
    """The new number of each old blueprint, -1 for those that are gone; 0, for none, stays.

    A user's blueprint whose parameters have other names or shapes now is another one.
    """
    known = [list(each) for each in now["blueprints"]]
    found = [0]
    for each in before["blueprints"]:
        old, new = (plan.get("forms", {}).get(each[0], {}) for plan in (before, now))
        changed = any(new.get(columns, form) != form for columns, form in old.items())
        there = list(each) in known and not changed
        found.append(known.index(list(each)) + 1 if there else -1)
    return torch.tensor(found)


def _refuse_lost(
    core: Tensor,
    lost: Tensor,
    old: Sequence[_Layer],
    new: Mapping[str, _Layer],
    kinds: Tensor,
    blueprints: Sequence[Any],
) -> None:
    fossils = (lost & (core[:, Core.STAGE] == Stage.FOSSILISED)).nonzero().flatten().tolist()
    if not fossils:
        return
    told = []
    for seed in fossils[:_SHOWN]:
        layer = next(each for each in old if each.first <= seed < each.first + each.seeds)
        kind = int(core[seed, Core.BLUEPRINT])
        into = new.get(layer.name)
        if into is None:
            why = "its layer is not chosen any more"
        elif not layer.same(into) or seed - layer.first >= into.seeds:
            why = f"the layer had {layer.seeds} seeds and has {into.seeds} now"
        else:
            assert int(kinds[kind]) < 0
            why = f"its blueprint {blueprints[kind - 1][0]} is gone"
        told.append(f"seed {seed - layer.first} of {layer.name} ({why})")
    more = f" and {len(fossils) - _SHOWN} more" if len(fossils) > _SHOWN else ""
    raise UnfitError(
        "checkpoint",
        f"{len(fossils)} fossils would be lost: {', '.join(told)}{more}; take the change of the spec "
        "back, or make another SeedLayer",
    )


def _state(
    tensors: Mapping[str, Tensor], target: Tensor, kinds: Tensor, seeds: int
) -> dict[str, Tensor]:
    kept = target >= 0
    found = {}
    for name, fresh in SeedState.dormant(seeds).tensors().items():
        fresh[target[kept]] = tensors[f"state.{name}"][kept]
        found[f"state.{name}"] = fresh
    blueprint = found["state.core"][:, Core.BLUEPRINT]
    found["state.core"][:, Core.BLUEPRINT] = kinds[blueprint.long()].int()
    return found


def _weights(
    tensors: Mapping[str, Tensor], source: _Layer | None, into: _Layer, target: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """What `layer.AT` and `optimiser.AT` hold of the seeds that have kept their places."""
    for part, names in (
        ("layer", ("down", "up")),
        ("optimiser", ("steps", "down.first", "down.second", "up.first", "up.second")),
    ):
        if source is None:
            seeds = torch.zeros(0, dtype=torch.int64)
            stays = seeds.bool()
        else:
            seeds = tensors[f"{part}.{source.at}.seeds"]
            stays = target[source.first + seeds] >= 0
        yield f"{part}.{into.at}.seeds", seeds[stays]
        for name in names:
            if source is not None and source.width == into.width:
                rows = tensors[f"{part}.{source.at}.{name}"][stays]
            else:
                rows = torch.zeros(0) if name == "steps" else torch.zeros(0, into.rows, into.width)
            yield f"{part}.{into.at}.{name}", rows if name == "steps" else _high(rows, into.rows)


def _high(slabs: Tensor, rows: int) -> Tensor:
    """Slabs with so many rows. Those past a seed's rank are zeros."""
    if slabs.shape[1] >= rows:
        return slabs[:, :rows]
    more = slabs.new_zeros((len(slabs), rows - slabs.shape[1], slabs.shape[2]))
    return torch.cat((slabs, more), dim=1)
