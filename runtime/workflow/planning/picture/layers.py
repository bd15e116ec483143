"""A plan as a graph: a box for each step or group of steps, in layers, with what needs what.

Layers go from left to right, or downwards where there are many. Within a layer boxes stand in the order
of the middle of what they need, which keeps most lines from crossing (Sugiyama and others 1981).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from seedbed.runtime.workflow.planning.insight import Analysis, spoken
from seedbed.runtime.workflow.planning.picture.gantt import description, summary, tooltip, worst
from seedbed.runtime.workflow.planning.picture.groups import Group, groups
from seedbed.runtime.workflow.planning.picture.svg import (
    CRITICAL,
    INK,
    PAPER,
    SIGNS,
    bar,
    document,
    element,
    label,
    legend,
    shortened,
    text_of,
)
from seedbed.runtime.workflow.planning.timings import State

_WIDTH, _HEIGHT = 186, 42
_BESIDE, _BELOW = 70, 12
_LEFT, _TOP = 24, 106
_NARROWEST, _LONGEST = 900.0, 9000.0
_BOXES = (200, 100, 50)
"""How many boxes to try to draw, until the picture is no longer than `_LONGEST`."""

_CROWDED = 400
_OMITTED = "Needs that pass over a layer are left out."

Link = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where each group's box stands, and the picture's size."""

    groups: Sequence[Group]
    at: Sequence[tuple[float, float]]
    width: float
    height: float
    downwards: bool


def layers(found: Analysis, title: str) -> str:
    """The picture as SVG.

    Args:
        found: the run or plan.
        title: names it.
    """
    for most in _BOXES:
        made = groups(found, most)
        links = _links(found, made)
        layout = min(
            (_laid_out(made, links, downwards=False), _laid_out(made, links, downwards=True)),
            key=lambda one: max(one.width, one.height),
        )
        if max(layout.width, layout.height) <= _LONGEST:
            break
    return document(
        layout.width,
        layout.height,
        title,
        description(found, made),
        label(20, 30, title, class_="title"),
        label(20, 50, summary(found), class_="faint"),
        legend(20, 73),
        _lines(layout, links, _path_links(found, made)),
        label(20, 92, _OMITTED, class_="small faint") if len(links) > _CROWDED else "",
        *(_box(found, group, *layout.at[at]) for at, group in enumerate(made)),
    )


def _links(found: Analysis, made: Sequence[Group]) -> Mapping[Link, int]:
    """How many needs lead from one group to another."""
    of_step = {step: at for at, group in enumerate(made) for step in group.steps}
    return Counter(
        (of_step[need], of_step[step])
        for step, needs in enumerate(found.plan.needs)
        for need in needs
        if of_step[need] != of_step[step]
    )


def _path_links(found: Analysis, made: Sequence[Group]) -> set[Link]:
    """Between which groups the critical path goes."""
    of_step = {step: at for at, group in enumerate(made) for step in group.steps}
    return {(of_step[one], of_step[other]) for one, other in pairwise(found.critical.path)}


def _laid_out(made: Sequence[Group], links: Mapping[Link, int], *, downwards: bool) -> _Layout:
    before: dict[int, list[int]] = {}
    for need, step in links:
        before.setdefault(step, []).append(need)
    by_level: dict[int, list[int]] = {}
    for at, group in enumerate(made):
        by_level.setdefault(group.level, []).append(at)
    places: dict[int, float] = {}
    corners: list[tuple[float, float]] = [(0.0, 0.0)] * len(made)
    most = max(map(len, by_level.values()))
    for depth, level in enumerate(sorted(by_level)):
        members = by_level[level]
        members.sort(key=lambda one: (not made[one].critical, _middle(before.get(one, ()), places)))
        # Every layer stands in the middle of the widest.
        for place, one in enumerate(members):
            across = place + (most - len(members)) / 2
            places[one] = across
            if downwards:
                corners[one] = (_LEFT + across * (_WIDTH + 16), _TOP + depth * (_HEIGHT + 30))
            else:
                corners[one] = (
                    _LEFT + depth * (_WIDTH + _BESIDE),
                    _TOP + across * (_HEIGHT + _BELOW),
                )
    right = max(x for x, _ in corners) + _WIDTH + _LEFT
    width = max(_NARROWEST, right)
    centred = [(x + (width - right) / 2, y) for x, y in corners]
    return _Layout(made, centred, width, max(y for _, y in centred) + _HEIGHT + 24, downwards)


def _middle(needs: Sequence[int], places: Mapping[int, float]) -> float:
    known = [places[need] for need in needs if need in places]
    return sum(known) / len(known) if known else 0.0


def _lines(layout: _Layout, links: Mapping[Link, int], path: set[Link]) -> str:
    """Thicker where there are more needs; the critical path on top."""
    plain: list[str] = []
    marked: list[str] = []
    crowded = len(links) > _CROWDED
    depth = {level: at for at, level in enumerate(sorted({one.level for one in layout.groups}))}
    for (need, step), count in links.items():
        one, other = layout.groups[need], layout.groups[step]
        critical = (need, step) in path
        if crowded and not critical and depth[other.level] - depth[one.level] != 1:
            continue
        drawn = element(
            "path",
            d=_curve(layout, need, step),
            fill="none",
            stroke=CRITICAL if critical else INK,
            stroke_opacity=0.9 if critical else 0.4,
            stroke_width=2.0 if critical else min(4.0, 0.8 + math.log10(count)),
            marker_end="url(#arrow)" if critical else None,
        )
        (marked if critical else plain).append(drawn)
    return element("g", *plain, *marked)


def _curve(layout: _Layout, need: int, step: int) -> str:
    (x, y), (right, bottom) = layout.at[need], layout.at[step]
    if layout.downwards:
        x, right, y = x + _WIDTH / 2, right + _WIDTH / 2, y + _HEIGHT
        half = (y + bottom) / 2
        return (
            f"M{x:.1f},{y:.1f} C{x:.1f},{half:.1f} {right:.1f},{half:.1f} {right:.1f},{bottom:.1f}"
        )
    x, y, bottom = x + _WIDTH, y + _HEIGHT / 2, bottom + _HEIGHT / 2
    half = (x + right) / 2
    return f"M{x:.1f},{y:.1f} C{half:.1f},{y:.1f} {half:.1f},{bottom:.1f} {right:.1f},{bottom:.1f}"


def _box(found: Analysis, group: Group, x: float, y: float) -> str:
    """Name, times, and in a strip at the bottom how far it is."""
    parts = [
        element("title", text_of(tooltip(found, group))),
        *_stack(group, x, y),
        element(
            "rect",
            x=x,
            y=y,
            width=_WIDTH,
            height=_HEIGHT,
            rx=5,
            fill=PAPER,
            stroke=CRITICAL if group.critical else "#aab4bd",
            stroke_width=2.5 if group.critical else 1,
        ),
        label(x + 8, y + 15, SIGNS[worst(group)], class_="small"),
        label(
            x + 22,
            y + 15,
            shortened(group.label, 25),
            class_="small critical" if group.critical else "small",
        ),
        label(x + _WIDTH - 8, y + 29, _facts(group), class_="small faint end", font_size=9),
        *_strip(group, x, y),
    ]
    return element("g", *parts, class_="row")


def _stack(group: Group, x: float, y: float) -> list[str]:
    """A second sheet behind a box that stands for several steps."""
    if len(group.steps) == 1:
        return []
    return [
        element(
            "rect",
            x=x + 4,
            y=y + 4,
            width=_WIDTH,
            height=_HEIGHT,
            rx=5,
            fill=PAPER,
            stroke="#aab4bd",
        )
    ]


def _facts(group: Group) -> str:
    slack = "◆ critical" if group.critical else f"slack {spoken(group.slack)}"
    return f"{spoken(group.seconds)} · {slack}"


def _strip(group: Group, x: float, y: float) -> list[str]:
    states: Sequence[State] = ("Succeeded", "Running", "Failed", "Skipped", "Waiting")
    parts: list[str] = []
    left = x + 8
    for state in states:
        share = (_WIDTH - 16) * group.states[state] / len(group.steps)
        if share > 0:
            parts.append(bar(left, y + 34, share, 4, state))
            left += share
    return parts
