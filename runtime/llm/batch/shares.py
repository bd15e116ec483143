"""Splits what a provider counted for a batch among its items. Pure.

A provider tells the tokens of a whole batch only. The sum of the shares is what it told, to the token,
so that what callers pay together is what the provider wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that add up to `total`, as near to the weights as can be."""
    whole = sum(weights)
    if whole == 0:
        return shares(total, [1] * len(weights))
    found = [total * weight // whole for weight in weights]
    left = total - sum(found)
    by_rest = sorted(range(len(weights)), key=lambda at: -(total * weights[at] % whole))
    for at in by_rest[:left]:
        found[at] += 1
    return found


def usages(usage: Json | None, asked: Sequence[int], answered: Sequence[int]) -> list[Json | None]:
    """The usage of each item of a batch; None for each where the provider told nothing.

    Args:
        usage: of the batch.
        asked: bytes of each prompt.
        answered: bytes of each answer.
    """
    prompt = (usage or {}).get("prompt_tokens")
    answer = (usage or {}).get("completion_tokens", 0)
    if not isinstance(prompt, int) or not isinstance(answer, int):
        return [None] * len(asked)
    each = zip(shares(prompt, asked), shares(answer, answered), strict=True)
    return [{"prompt_tokens": p, "completion_tokens": a, "total_tokens": p + a} for p, a in each]
