"""How hard a request looks, from its text alone: 0 is trivial, 1 is hard. Pure and explainable.

Each mark adds its weight; the weights are a first guess that the predictor corrects by what it
learns for each of the five levels, so their order matters and their size hardly does.
"""

from __future__ import annotations

import math
import re

from seedbed.runtime.llm.requests import ChatRequest

LEVELS = 5
_LONG = 4000
_MARKS: tuple[tuple[re.Pattern[str], float], ...] = (
    (
        re.compile(
            r"\b(why|explain|prove|derive|justify|analy[sz]e|compare|evaluate)\b", re.IGNORECASE
        ),
        0.2,
    ),
    (
        re.compile(
            r"\b(if|unless|except|only|at least|at most|not|never|without)\b", re.IGNORECASE
        ),
        0.1,
    ),
    (re.compile(r"[=<>^∑∫√]|\\frac|\b(integral|equation|theorem|matrix)\b", re.IGNORECASE), 0.2),
    (re.compile(r"```|\b(def|class|function|SELECT|import)\b"), 0.15),
    (re.compile(r"\b(step by step|first|then|finally|plan)\b", re.IGNORECASE), 0.1),
)


def hardness(request: ChatRequest) -> float:
    """The score of a request."""
    text = "\n".join(message.content or "" for message in request.messages)
    score = 0.25 * min(1.0, math.log1p(len(text)) / math.log1p(_LONG))
    score += sum(weight for mark, weight in _MARKS if mark.search(text))
    score += 0.1 if request.tools else 0.0
    schema = request.answer_schema or {}
    score += min(0.1, 0.02 * len(schema.get("properties") or {}))
    return min(1.0, score)


def level(score: float) -> int:
    """The level, from 0, that a score falls into."""
    return min(LEVELS - 1, int(score * LEVELS))
