"""Which steps share a row or a box: all of a small plan's have their own, a large plan's go together.

Steps go together by ever coarser likeness until few enough are left: the same body and the same needs at
the same level, the same body at the level, the level, a range of levels. Steps of the critical path only
ever go together with each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from seedbed.runtime.workflow.planning.insight import Analysis
from seedbed.runtime.workflow.planning.timings import State, body_of

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that are drawn as one.

    Attributes:
        steps: their positions, in order.
        level: the first of their levels.
        span: from the first start to the last end, in seconds from the run's start; None where none of
            them has begun or ever will.
        seconds: of the longest of them.
        states: how many steps are in which state.
        slack: the smallest of theirs.
    """

    label: str
    steps: tuple[int, ...]
    level: int
    critical: bool
    span: Span | None
    seconds: float
    states: Counter[State]
    slack: float


def groups(found: Analysis, most: int) -> list[Group]:
    """The plan's steps in at most so many groups, by level and start."""
    levels = found.plan.levels()
    spans = spans_of(found)
    on_path = set(found.critical.path)
    made = [
        _group(found, steps, levels, spans, critical=steps[0] in on_path)
        for steps in _together(found, levels, on_path, most)
    ]
    return sorted(made, key=lambda one: (one.level, one.span or (1e18, 0.0), one.steps[0]))


def spans_of(found: Analysis) -> list[Span | None]:
    """Start and end of each step in seconds from the run's start, as it was or as it is expected."""
    origin = found.started if found.started is not None else found.now
    passed = found.now - origin
    spans: list[Span | None] = []
    for step, work in enumerate(found.works):
        begins = min((*work.running, *([] if work.first is None else [work.first])), default=None)
        expected = (passed + found.rest.starts[step], passed + found.rest.ends[step])
        if work.state == "Waiting":
            spans.append(None if found.finished is not None else expected)
        elif work.state == "Running":
            began = expected[0] if begins is None else begins - origin
            spans.append((began, max(began, expected[1])))
        else:
            began = 0.0 if work.first is None else work.first - origin
            spans.append((began, began if work.last is None else work.last - origin))
    return spans


def _together(
    found: Analysis, levels: Sequence[int], on_path: set[int], most: int
) -> list[tuple[int, ...]]:
    steps = range(len(found.works))
    if len(steps) <= most:
        return [(step,) for step in steps]
    bodies = [body_of(node.step) for node in found.graph.nodes.values()]
    needs = found.plan.needs
    height = max(levels) + 1
    wide = max(1, most // 2)
    likenesses: Sequence[Callable[[int], Hashable]] = (
        lambda step: (levels[step], bodies[step], needs[step]),
        lambda step: (levels[step], bodies[step]),
        lambda step: levels[step],
        lambda step: levels[step] * wide // height,
    )
    collected: dict[Hashable, list[int]] = {}
    for likeness in likenesses:
        collected = defaultdict(list)
        for step in steps:
            collected[step in on_path, likeness(step)].append(step)
        if len(collected) <= most:
            break
    return [tuple(found) for found in collected.values()]


def _group(
    found: Analysis,
    steps: tuple[int, ...],
    levels: Sequence[int],
    spans: Sequence[Span | None],
    *,
    critical: bool,
) -> Group:
    known = [span for span in map(spans.__getitem__, steps) if span is not None]
    return Group(
        _label(found, steps),
        steps,
        min(levels[step] for step in steps),
        critical,
        (min(span[0] for span in known), max(span[1] for span in known)) if known else None,
        max(found.spans[step] for step in steps),
        Counter(found.works[step].state for step in steps),
        min(found.critical.slack[step] for step in steps),
    )


def _label(found: Analysis, steps: tuple[int, ...]) -> str:
    """The step's name, or the beginning that many names share, or their body."""
    names = [found.plan.names[step] for step in steps]
    units = found.works[steps[0]].units
    if len(steps) == 1:
        return names[0] if units == 1 else f"{names[0]} (forEach of {units:,})"
    shared = _prefix(min(names), max(names))
    if not shared:
        node = found.graph.nodes[names[0]]
        alike = {body_of(found.graph.nodes[name].step) for name in names}
        shared = body_of(node.step).partition(" ")[2] if len(alike) == 1 else "various steps"
    else:
        shared += "…"
    return f"{shared} ({len(steps):,} steps)"


def _prefix(first: str, last: str) -> str:
    """What the smallest and the largest name, and so all between, begin with."""
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length].rstrip("0123456789").rstrip("-")
