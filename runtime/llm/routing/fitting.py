"""How likely a model's answer is good, fitted to single answers whose marks are known. Pure.

A logistic regression on the marks of the text, with an intercept of its own for each task that leans
on that of all tasks (a normal prior, as in a mixed model): a task with few answers is predicted from
its texts, one with many from its own record as well. It is fitted by Newton's method; the tasks are
eliminated from each step, so it costs the square of the number of marks, however many tasks there are.
Being a likelihood's maximum it is calibrated on what it has seen, and the priors keep it so beyond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedbed.runtime.llm.routing.marks import Marks

ENOUGH = 200
"""Answers of one model from which on they are fitted; before, levels of hardness have to do."""
MARK_PRIOR = 30.0
"""Precision of the weights, in squared units of the marks' scale. Chosen by cross-validation."""
TASK_PRIOR = 4.0
"""Precision of the tasks' intercepts. Chosen by cross-validation."""
_STEPS = 12
_NEAR = 1e-4
_MOST = 30.0
"""Log-odds beyond which nothing is told apart."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """One answer.

    Attributes:
        marks: of what was asked.
        good: from 0 to 1.
        word: what the model itself has said of it, from 0 to 1, where it was asked.
    """

    task: str
    marks: Marks
    good: float
    word: float | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was learnt of one model.

    Attributes:
        examples: how many it was learnt from.
        start: log-odds of a text with usual marks in a task that is not known.
        tasks: what is added for a task.
        usual: the mean marks.
        weights: log-odds for each mark.
    """

    examples: int
    start: float
    tasks: Mapping[str, float]
    usual: Array
    weights: Array

    def quality(self, task: str, marks: Marks) -> float:
        """The probability that an answer is good."""
        odds = self.start + self.tasks.get(task, 0.0) + float((marks - self.usual) @ self.weights)
        return float(_logistic(odds))


def fit(examples: Sequence[Example]) -> Fitted:
    """Fit to the answers of one model; at least one is needed."""
    names = sorted({example.task for example in examples})
    number = {name: at for at, name in enumerate(names)}
    task = np.array([number[example.task] for example in examples])
    good = np.array([example.good for example in examples], np.float64)
    marks = np.array([example.marks for example in examples], np.float64)
    usual = marks.mean(axis=0)
    design = np.column_stack([np.ones(len(good)), marks - usual])
    precision = np.full(design.shape[1], MARK_PRIOR)
    # One answer of either kind is believed in beforehand, so that the odds stay finite.
    precision[0] = 1.0
    weights, tasks = np.zeros(design.shape[1]), np.zeros(len(names))
    for _ in range(_STEPS):
        odds = design @ weights + tasks[task]
        by_weight, by_task = _step(design, task, good, odds, weights, tasks, precision)
        weights, tasks = weights + by_weight, tasks + by_task
        if max(np.abs(by_weight).max(), np.abs(by_task).max()) < _NEAR:
            break
    learnt = dict(zip(names, tasks.tolist(), strict=True))
    return Fitted(len(good), float(weights[0]), learnt, usual, weights[1:])


def _step(
    design: Array,
    task: NDArray[np.int_],
    good: Array,
    odds: Array,
    weights: Array,
    tasks: Array,
    precision: Array,
) -> tuple[Array, Array]:
    """One step of Newton's method for weights and tasks, by the Schur complement of the tasks."""
    chance = _logistic(odds)
    certainty = chance * (1 - chance)
    count = len(tasks)
    slope = design.T @ (good - chance) - precision * weights
    task_slope = np.bincount(task, good - chance, count) - TASK_PRIOR * tasks
    weighed = design * certainty[:, None]
    across = np.zeros((count, design.shape[1]))
    np.add.at(across, task, weighed)
    held = 1.0 / (np.bincount(task, certainty, count) + TASK_PRIOR)
    curve = design.T @ weighed + np.diag(precision) - (across * held[:, None]).T @ across
    by_weight = np.linalg.solve(curve, slope - across.T @ (held * task_slope)).astype(np.float64)
    return by_weight, held * (task_slope - across @ by_weight)


def _logistic(odds: Array | float) -> Array:
    found: Array = 1.0 / (1.0 + np.exp(-np.clip(odds, -_MOST, _MOST)))
    return found
