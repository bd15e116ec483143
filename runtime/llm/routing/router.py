"""Chooses the model for a request that leaves the choice to the service. Pure.

The cheapest model whose predicted quality meets the floor; where none does, the best. Now and then,
and only where little is known, a cheaper one that may well be good enough is tried instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seedbed.runtime.llm.routing.predictor import Prediction, Predictor

ENOUGH = 50
"""Outcomes at one level from which on nothing is tried out any more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks of the choice.

    Attributes:
        task: class of tasks that outcomes are learnt for.
        level: of hardness.
        floor: quality that is to be met.
    """

    task: str
    level: int
    floor: float


@dataclass(frozen=True, slots=True)
class Route:
    """The models in the order in which they are asked, and why the first is the first."""

    order: tuple[str, ...]
    reason: str
    predicted: Mapping[str, Prediction]


def route(
    costs: Mapping[str, int], predictor: Predictor, wanted: Wanted, *, explore: float, chance: float
) -> Route:
    """Choose.

    Args:
        costs: what asking each able model would cost, in nano-dollars.
        predictor: says how good the answers would be.
        wanted: task, level and floor.
        explore: share of requests, at most, that may try out a model.
        chance: a random number from 0 to 1.
    """
    predicted = {name: predictor.of(wanted.task, name, wanted.level) for name in costs}
    cheapest = sorted(costs, key=lambda name: (costs[name], -predicted[name].quality, name))
    best = sorted(costs, key=lambda name: (-predicted[name].quality, costs[name], name))
    good = [name for name in cheapest if predicted[name].quality >= wanted.floor]
    chosen, reason = (good[0], "meets_floor") if good else (best[0], "best_there_is")
    if chance < explore:
        tried = _worth_trying(cheapest, costs, predicted, wanted.floor, chosen)
        chosen, reason = (tried, "tried_out") if tried else (chosen, reason)
    others = [name for name in best if name != chosen]
    return Route((chosen, *others), reason, predicted)


def _worth_trying(
    cheapest: Sequence[str],
    costs: Mapping[str, int],
    predicted: Mapping[str, Prediction],
    floor: float,
    chosen: str,
) -> str | None:
    """The cheapest model below the chosen one of which little is known and much may be hoped."""
    for name in cheapest:
        found = predicted[name]
        hope = found.quality + found.doubt
        if costs[name] < costs[chosen] and found.asked < ENOUGH and hope >= floor:
            return name
    return None
