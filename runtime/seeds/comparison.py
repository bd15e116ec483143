"""Runs two models on the same inputs and says which one is better, by a rule that a stored result repeats.

Both get each input, in an order that a random number decides, so that neither profits from a warm cache.
Times are compared in pairs by a t-test on their logarithms: what is compared is a ratio, and a single slow
call does not decide. The winner follows from the stored pairs alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.baseline import WARM_UP, timed

SIGNIFICANCE = 0.05
SIMILARITY = 0.99
LEAST_EFFECT = 0.01
"""A difference of time below one percent makes no winner, however sure it is."""
ACCURACY_LOSS = 0.01
Winner = Literal["a", "b", "none"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What was measured, one entry an input.

    Attributes:
        a_ms: times of the first model.
        b_ms: times of the second.
        cosine: similarity of their answers, of the least similar row of each input.
        a_right: share of the targets that the first one met; empty where there were none.
        b_right: the second one.
    """

    a_ms: tuple[float, ...]
    b_ms: tuple[float, ...]
    cosine: tuple[float, ...]
    a_right: tuple[float, ...] = ()
    b_right: tuple[float, ...] = ()

    @classmethod
    def read(cls, record: Any) -> Pairs:
        """Of a stored result.

        Raises:
            InvalidError: it is none.
        """
        try:
            fields = {
                name: tuple(float(value) for value in record["pairs"][name])
                for name in cls.__slots__
            }
            found = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidError("result", f"is no stored comparison: {error!r}") from error
        if not len(found.a_ms) == len(found.b_ms) == len(found.cosine) > 1:
            raise InvalidError("result", "expected as many times of one model as of the other")
        return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which model is better, and how that is known.

    Attributes:
        winner: `a`, `b`, or `none`.
        confidence: one minus the p-value of what decided; 0 where nothing did.
        reason: the rule that decided, with its figures.
        ratio: time of b over time of a, geometric mean.
        p_time: of the paired t-test on the logarithms of the times.
        cosine: mean similarity of the answers.
        accuracy_change: accuracy of b minus that of a, or None.
        p_accuracy: of the paired t-test on the accuracies, or None.
        samples: how many pairs.
    """

    winner: Winner
    confidence: float
    reason: str
    ratio: float
    p_time: float
    cosine: float
    accuracy_change: float | None
    p_accuracy: float | None
    samples: int


def run(
    a: Callable[..., Tensor],
    b: Callable[..., Tensor],
    inputs: Sequence[tuple[Tensor, ...]],
    *,
    device: torch.device,
    targets: Sequence[Tensor] | None = None,
    chance: int = 0,
    clock: Callable[..., float] = timed,
) -> Pairs:
    """Measure both.

    Args:
        a: the first model's forward pass.
        b: the second's.
        inputs: of each pair of calls.
        device: where both are.
        targets: of each input, for accuracy.
        chance: decides who goes first.
        clock: milliseconds of a call.
    """
    order = random.Random(chance)  # noqa: S311 - no secret
    for call in (a, b):
        for _ in range(WARM_UP):
            call(*inputs[0])
    times: tuple[list[float], list[float]] = ([], [])
    cosine, right = [], ([], [])  # type: tuple[list[float], tuple[list[float], list[float]]]
    with torch.inference_mode():
        for at, given in enumerate(inputs):
            turns = [(0, a), (1, b)]
            order.shuffle(turns)
            for who, call in turns:
                times[who].append(clock(call, given, device))
            answers = a(*given), b(*given)
            cosine.append(similarity(*answers))
            if targets is not None:
                for who, answer in enumerate(answers):
                    met = (answer.argmax(dim=-1) == targets[at]).float().mean()
                    right[who].append(float(met))
    return Pairs(tuple(times[0]), tuple(times[1]), tuple(cosine), tuple(right[0]), tuple(right[1]))


def similarity(one: Tensor, other: Tensor) -> float:
    """Cosine of the least similar rows of two answers; 0 where their shapes differ, or one is no number."""
    if one.shape != other.shape:
        return 0.0
    rows = one.reshape(len(one), -1).float(), other.reshape(len(other), -1).float()
    found = functional.cosine_similarity(*rows, dim=1).nan_to_num(0.0)
    return float(torch.where((rows[0] == rows[1]).all(dim=1), 1.0, found).min())


def verdict(pairs: Pairs) -> Verdict:
    """Who wins. The same pairs give the same verdict.

    A model that answers otherwise cannot win by being faster: below a similarity of 0.99 only accuracy
    decides. Else accuracy decides where its difference is significant and above one point, then time.
    """
    samples = len(pairs.a_ms)
    ratios = np.log(np.asarray(pairs.b_ms)) - np.log(np.asarray(pairs.a_ms))
    ratio, p_time = math.exp(float(ratios.mean())), _p_value(ratios)
    cosine = float(np.mean(pairs.cosine))
    gained: float | None = None
    p_gained: float | None = None
    if pairs.a_right:
        differences = np.asarray(pairs.b_right) - np.asarray(pairs.a_right)
        gained, p_gained = float(differences.mean()), _p_value(differences)

    def decided(winner: Winner, confidence: float, reason: str) -> Verdict:
        return Verdict(winner, confidence, reason, ratio, p_time, cosine, gained, p_gained, samples)

    if gained is not None and p_gained is not None and _matters(gained, p_gained):
        reason = f"accuracy of b differs by {gained:+.4f}, p = {p_gained:.2g}"
        return decided("b" if gained > 0 else "a", 1.0 - p_gained, reason)
    if cosine < SIMILARITY:
        return decided("none", 0.0, f"the answers differ: cosine {cosine:.4f} < {SIMILARITY}")
    if p_time < SIGNIFICANCE and abs(ratio - 1.0) >= LEAST_EFFECT:
        reason = f"b takes {ratio:.3f} times as long, p = {p_time:.2g}"
        return decided("b" if ratio < 1 else "a", 1.0 - p_time, reason)
    return decided("none", 0.0, f"no difference: time ratio {ratio:.3f}, p = {p_time:.2g}")


def _matters(gained: float, p_value: float) -> bool:
    return p_value < SIGNIFICANCE and abs(gained) > ACCURACY_LOSS


def record(pairs: Pairs) -> dict[str, Any]:
    """The pairs and the verdict, for a JSON file."""
    return {"pairs": asdict(pairs), "verdict": asdict(verdict(pairs))}


def _p_value(differences: Any) -> float:
    """Of the two-sided paired t-test; 1 where all differences are zero, 0 where all are the same."""
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
