"""Chooses the model for a request that leaves the choice to the service. Pure.

The cheapest model whose predicted quality meets the floor, or is hardly below the best one's; where
none is, the best. The second rule is the one that saves most for a given loss: it spends money where
the dear model is expected to be better, and not where both fail or neither does. Now and then, and
only where little is known, a cheaper one that may well be good enough is tried instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seedbed.runtime.llm.routing.marks import Marks
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
        loss: quality that may be missed against the best model, whatever the floor.
        marks: of the text, where they are known.
    """

    task: str
    level: int
    floor: float
    loss: float = 0.0
    marks: Marks | None = None


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
    predicted = {
        name: predictor.of(wanted.task, name, wanted.level, wanted.marks) for name in costs
    }
    cheapest = sorted(costs, key=lambda name: (costs[name], -predicted[name].quality, name))
    best = sorted(costs, key=lambda name: (-predicted[name].quality, costs[name], name))
    near = predicted[best[0]].quality - wanted.loss
    good = [name for name in cheapest if predicted[name].quality >= min(wanted.floor, near)]
    chosen = good[0]
    reason = "best_there_is" if chosen == best[0] else "near_the_best"
    if predicted[chosen].quality >= wanted.floor:
        reason = "meets_floor"
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
