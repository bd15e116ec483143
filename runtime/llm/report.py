"""What is known of each model's cost and quality, as a curve for each task: for people and the API. Pure.

For every floor there is a choice of models; the curve tells what answers would cost and how good they
would be at each. A single number would hide that the two trade off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from seedbed.runtime.llm.routing.hardness import LEVELS
from seedbed.runtime.llm.routing.predictor import Outcomes, Predictor
from seedbed.runtime.llm.routing.router import Wanted, route

FLOORS = tuple(n / 20 for n in range(10, 21))


class ModelReport(TypedDict):
    """What is known of a model."""

    model: str
    outcomes: float
    good: float | None
    dollars_per_thousand: float


class Point(TypedDict):
    """Of a curve."""

    floor: float
    quality: float
    dollars_per_thousand: float


class Report(TypedDict):
    """Models, and curves by task."""

    models: list[ModelReport]
    curves: dict[str, list[Point]]


def report(outcomes: Iterable[Outcomes], costs: Mapping[str, float]) -> Report:
    """Curves by task.

    Args:
        outcomes: of one namespace.
        costs: mean nano-dollars of a call by model, as the ledger has them; only models in it are
            weighed.

    Returns:
        `models` with outcomes and share of good ones, and `curves`: by task, points of `floor`,
        `quality` and `cost` (dollars of a thousand calls), over the mix of hardness that was seen.
    """
    known = [each for each in outcomes if each.model in costs]
    predictor = Predictor(known, {})
    tasks = sorted({each.task for each in known})
    return {
        "models": [_model(name, costs[name], known) for name in sorted(costs)],
        "curves": {task: _curve(task, known, costs, predictor) for task in tasks},
    }


def _model(name: str, cost: float, known: list[Outcomes]) -> ModelReport:
    mine = [each for each in known if each.model == name]
    asked = sum(each.asked for each in mine)
    good = sum(each.good for each in mine)
    return {
        "model": name,
        "outcomes": asked,
        "good": round(good / asked, 4) if asked else None,
        "dollars_per_thousand": _dollars(cost),
    }


def _curve(
    task: str, known: list[Outcomes], costs: Mapping[str, float], predictor: Predictor
) -> list[Point]:
    seen = [sum(e.asked for e in known if (e.task, e.level) == (task, at)) for at in range(LEVELS)]
    weights = seen if sum(seen) else [1.0] * LEVELS
    points: list[Point] = []
    for floor in FLOORS:
        quality = cost = 0.0
        for at, weight in enumerate(weights):
            whole = {name: round(each) for name, each in costs.items()}
            found = route(whole, predictor, Wanted(task, at, floor), explore=0, chance=1)
            quality += weight * found.predicted[found.order[0]].quality
            cost += weight * costs[found.order[0]]
        total = sum(weights)
        points.append(
            {
                "floor": floor,
                "quality": round(quality / total, 4),
                "dollars_per_thousand": _dollars(cost / total),
            }
        )
    return points


def _dollars(nanos: float) -> float:
    return round(nanos * 1000 / 1_000_000_000, 6)
