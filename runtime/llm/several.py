"""Several answers as the one that a caller gets who sent several prompts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seedbed.runtime.llm.requests import Json


def merged(answers: Sequence[Json], each: int) -> Json:
    """One answer out of many.

    Args:
        answers: in the order of the prompts.
        each: choices that were asked for a prompt.
    """
    found = [moved(answer, at, each) for at, answer in enumerate(answers)]
    choices = [choice for answer in found for choice in answer.get("choices") or ()]
    return {**with_usage(answers[0], answers), "choices": choices}


def moved(answer: Json, prompt: int, each: int) -> Json:
    """An answer, or a chunk of one, whose choices have the places that are a prompt's."""
    choices = [
        {**choice, "index": prompt * each + choice.get("index", at)}
        for at, choice in enumerate(answer.get("choices") or ())
    ]
    return {**answer, "choices": choices}


def with_usage(head: Json, answers: Sequence[Json | None]) -> Json:
    """`head` with the usage of all; with none where that of one is not known."""
    told = [(answer or {}).get("usage") for answer in answers]
    bare = {name: value for name, value in head.items() if name != "usage"}
    if not all(isinstance(usage, dict) for usage in told):
        return bare
    return {**bare, "usage": _summed(told)}


def _summed(told: Sequence[Any]) -> Json:
    """Numbers of the same name added up, at every depth."""
    found: Json = {}
    for name in dict.fromkeys(name for each in told for name in each):
        values = [each[name] for each in told if each.get(name) is not None]
        if values and all(isinstance(value, dict) for value in values):
            found[name] = _summed(values)
        elif values and all(isinstance(value, int | float) for value in values):
            found[name] = sum(values)
    return found
