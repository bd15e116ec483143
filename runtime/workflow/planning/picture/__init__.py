"""Pictures of plans as SVG, drawn by pure functions; they stay readable at 10,000 steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from seedbed.crds.errors import InvalidError
from seedbed.runtime.workflow.planning.insight import Analysis
from seedbed.runtime.workflow.planning.picture.gantt import gantt
from seedbed.runtime.workflow.planning.picture.layers import layers

Picture = Callable[[Analysis, str], str]
"""Draws an analysis under a title."""

PICTURES: Mapping[str, Picture] = {"gantt": gantt, "layers": layers}


def picture_named(form: str) -> Picture:
    """The picture of this name.

    Raises:
        InvalidError: where there is none.
    """
    if form not in PICTURES:
        raise InvalidError("form", f"expected one of {', '.join(PICTURES)}")
    return PICTURES[form]
