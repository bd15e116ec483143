"""How likely a model's answer is good, learnt from outcomes. Pure.

Of a model with many outcomes whose texts' marks are known, `fitting` says it. Of others: beta-binomial
with one prior behind another. What is believed of a model at one level of a task leans on what is
known of it in the whole task, that on all tasks, and that on the quality its entry states. So a new
task begins with a sensible guess, and evidence takes over as it comes in. Across the levels the
estimates are made to fall, never to rise, by pooling neighbours that disagree (isotonic regression by
adjacent violators): harder requests are never predicted to be answered better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from seedbed.runtime.llm.routing.fitting import ENOUGH, Fitted
from seedbed.runtime.llm.routing.hardness import LEVELS
from seedbed.runtime.llm.routing.marks import Marks

PRIOR = 0.7
"""Quality of a model of which nothing is known or stated."""
LEAN = 8.0
"""Outcomes that what stands behind an estimate counts as."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of one model on one task at one level; weights may be fractions."""

    task: str
    model: str
    level: int
    asked: float
    good: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """How likely an answer is good.

    Attributes:
        doubt: standard deviation of what is believed of `quality`.
        asked: outcomes at this level that it rests on.
    """

    quality: float
    doubt: float
    asked: float


class Predictor:
    """Predictions from a set of outcomes; made anew when they change."""

    def __init__(
        self,
        outcomes: Iterable[Outcomes],
        stated: Mapping[str, float],
        fitted: Mapping[str, Fitted] | None = None,
    ) -> None:
        """What is known.

        Args:
            outcomes: counts.
            stated: quality by model, as the models file says.
            fitted: what was learnt from single answers, by model.
        """
        self._stated = stated
        self._fitted = {
            model: found for model, found in (fitted or {}).items() if found.examples >= ENOUGH
        }
        self._levels: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self._models: dict[str, tuple[float, float]] = {}
        for each in outcomes:
            key = (each.task, each.model)
            levels = self._levels.setdefault(key, [(0.0, 0.0)] * LEVELS)
            asked, good = levels[each.level]
            levels[each.level] = (asked + each.asked, good + each.good)
            asked, good = self._models.get(each.model, (0.0, 0.0))
            self._models[each.model] = (asked + each.asked, good + each.good)
        self._known: dict[tuple[str, str], tuple[Prediction, ...]] = {}

    def of(self, task: str, model: str, level: int, marks: Marks | None = None) -> Prediction:
        """What to expect of a model's answer to a text of this level, with these marks."""
        key = (task, model)
        if key not in self._known:
            self._known[key] = self._all_levels(task, model)
        by_level = self._known[key][level]
        fitted = self._fitted.get(model)
        if fitted is None or marks is None:
            return by_level
        return replace(by_level, quality=fitted.quality(task, marks))

    def _all_levels(self, task: str, model: str) -> tuple[Prediction, ...]:
        everywhere = _leaning(self._models.get(model, (0.0, 0.0)), self._stated.get(model, PRIOR))
        levels = self._levels.get((task, model), [(0.0, 0.0)] * LEVELS)
        whole = (sum(asked for asked, _ in levels), sum(good for _, good in levels))
        of_task = _leaning(whole, everywhere)
        guesses = [_leaning(each, of_task) for each in levels]
        weights = [asked + LEAN for asked, _ in levels]
        fitted = falling(guesses, weights)
        return tuple(
            Prediction(quality, math.sqrt(quality * (1 - quality) / (weight + 1)), asked)
            for quality, weight, (asked, _) in zip(fitted, weights, levels, strict=True)
        )


def _leaning(counts: tuple[float, float], prior: float) -> float:
    asked, good = counts
    return (good + LEAN * prior) / (asked + LEAN)


def falling(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The nearest sequence that never rises, by weighted least squares."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-1][0] > pools[-2][0]:
            (one, its, few), (other, heavy, many) = pools.pop(), pools.pop()
            total = its + heavy
            pools.append(((one * its + other * heavy) / total, total, few + many))
    return [value for value, _, count in pools for _ in range(count)]
