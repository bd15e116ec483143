"""A plan over time: a row for each step or group of steps, by level, on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from seedbed.runtime.workflow.planning.insight import Analysis, instant, spoken
from seedbed.runtime.workflow.planning.picture.groups import Group, Span, groups, spans_of
from seedbed.runtime.workflow.planning.picture.svg import (
    CRITICAL,
    FAINT,
    GRID,
    SIGNS,
    STATES,
    bar,
    document,
    element,
    label,
    legend,
    shortened,
    text_of,
)
from seedbed.runtime.workflow.planning.timings import State

ROWS = 200
"""Rows that a picture has at most."""

_LABELS, _CHART, _RIGHT = 330, 860, 90
_TOP, _ROW, _BAR = 138, 19, 12
_TRACK = 92
_TICKS = 8
_NICE = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def gantt(found: Analysis, title: str) -> str:
    """The picture as SVG.

    Args:
        found: the run or plan.
        title: names it.
    """
    rows = groups(found, ROWS)
    axis = _Axis(max((row.span[1] for row in rows if row.span), default=0.0) or 1.0)
    height = _TOP + _ROW * len(rows) + 30
    width = _LABELS + _CHART + _RIGHT
    return document(
        width,
        height,
        title,
        description(found, rows),
        label(20, 30, title, class_="title"),
        label(20, 50, summary(found), class_="faint"),
        legend(20, 73),
        _bands(rows, width),
        axis.drawn(height - 22),
        _track(found, axis),
        *(_row(found, row, at, axis) for at, row in enumerate(rows)),
        _links(rows, axis),
        _now(found, axis, height - 22),
    )


def summary(found: Analysis) -> str:
    """What there is to say in one line."""
    told = f"{len(found.works):,} steps, {found.plan.edges:,} needs"
    told += (
        f" · critical path {spoken(found.critical.seconds)} over {len(found.critical.path):,} steps"
    )
    told += f" · {found.parallelism:,} at a time"
    if found.finished is not None and found.started is not None:
        return f"{found.phase} after {spoken(found.finished - found.started)} · {told}"
    if found.eta is not None:
        return (
            f"{found.phase}, {spoken(found.rest.seconds)} left until {instant(found.eta)} · {told}"
        )
    return f"Expected {spoken(found.rest.seconds)} · {told}"


def description(found: Analysis, rows: Sequence[Group]) -> str:
    """The picture in words."""
    states = ", ".join(
        f"{count:,} {state.lower()}"
        for state in STATES
        if (count := sum(row.states[state] for row in rows))
    )
    names = [found.plan.names[step] for step in found.critical.path]
    shown = names if len(names) <= 8 else [*names[:4], "and so on", *names[-3:]]  # noqa: PLR2004  # a sentence
    return f"{summary(found)}. Steps: {states}. Critical path: {', then '.join(shown)}."


class _Axis:
    """Seconds to the right."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._step = (
            next((each for each in _NICE if seconds / each <= _TICKS), seconds / _TICKS)
            if seconds > 1
            else seconds / 5
        )

    def x(self, seconds: float) -> float:
        return _LABELS + _CHART * min(1.0, max(0.0, seconds / self._seconds))

    def drawn(self, bottom: float) -> str:
        parts = []
        at = 0.0
        while at <= self._seconds * 1.0001:
            x = self.x(at)
            parts += [
                element("line", x1=x, x2=x, y1=_TOP - 12, y2=bottom, stroke=GRID),
                label(x, _TOP - 17, spoken(at) if at else "0", class_="small faint middle"),
            ]
            at += self._step
        return element("g", *parts)


def _bands(rows: Sequence[Group], width: float) -> str:
    """Every other level on a tinted ground."""
    parts = []
    ground = {level: at for at, level in enumerate(dict.fromkeys(row.level for row in rows))}
    for at, row in enumerate(rows):
        if ground[row.level] % 2 == 0:
            y = _TOP + at * _ROW
            parts.append(element("rect", x=0, y=y, width=width, height=_ROW, fill="#f6f8fa"))
    return element("g", *parts)


def _track(found: Analysis, axis: _Axis) -> str:
    """The critical path in one line, step by step."""
    spans = spans_of(found)
    parts = [label(20, _TRACK + 10, "◆ Critical path", class_="critical", fill=CRITICAL)]
    edges: list[Span] = [span for step in found.critical.path if (span := spans[step])]
    names = [found.plan.names[step] for step in found.critical.path if spans[step]]
    # A long path would be thousands of slivers: those that share a pixel go together.
    last = -1.0
    for name, (start, end) in zip(names, edges, strict=True):
        x, right = axis.x(start), axis.x(end)
        if right - last < 1.0 and last >= 0:
            continue
        parts.append(
            element(
                "rect",
                element("title", text_of(f"{name}: {spoken(end - start)}")),
                x=x,
                y=_TRACK,
                width=max(1.0, right - x),
                height=_BAR,
                fill=CRITICAL,
                stroke="#ffffff",
                stroke_width=0.5,
            )
        )
        last = right
    return element("g", *parts)


def _row(found: Analysis, row: Group, at: int, axis: _Axis) -> str:
    y = _TOP + at * _ROW
    middle = y + 13.5
    sign = SIGNS[worst(row)]
    mark = "◆" if row.critical else ""
    style = "critical" if row.critical else None
    parts = [
        element("title", text_of(tooltip(found, row))),
        label(10, middle, mark, fill=CRITICAL, class_="small"),
        label(24, middle, sign, class_="small"),
        label(40, middle, shortened(row.label, 44), class_=style),
    ]
    if row.span is None:
        parts.append(label(_LABELS + 4, middle, "not started", class_="small faint"))
        return element("g", *parts, class_="row")
    x, right = axis.x(row.span[0]), axis.x(row.span[1])
    parts += _bars(row, x, y + 3.5, max(1.5, right - x))
    if row.critical:
        parts.append(
            element(
                "rect",
                x=x - 1,
                y=y + 2.5,
                width=max(3.5, right - x + 2),
                height=_BAR + 2,
                rx=3,
                fill="none",
                stroke=CRITICAL,
                stroke_width=2,
            )
        )
    told = spoken(row.seconds) if len(row.steps) == 1 else f"up to {spoken(row.seconds)} each"
    parts.append(label(max(right, x + 3) + 6, middle, told, class_="small faint"))
    return element("g", *parts, class_="row")


def _bars(row: Group, x: float, y: float, width: float) -> list[str]:
    """One bar; of a group, as much of it in each state's pattern as steps are in it."""
    total = len(row.steps)
    parts = []
    for state in STATES:
        share = width * row.states[state] / total
        if share > 0:
            parts.append(bar(x, y, share, _BAR, state))
            x += share
    return parts


def _links(rows: Sequence[Group], axis: _Axis) -> str:
    """From each row of the critical path to the next."""
    path = [(at, row.span) for at, row in enumerate(rows) if row.critical and row.span]
    if len(path) > ROWS // 4:
        return ""  # lines would hide the bars; the track tells
    parts = []
    for (above, before), (below, after) in pairwise(path):
        x = axis.x(min(before[1], after[0]))
        y = _TOP + above * _ROW + _ROW - 2
        bottom = _TOP + below * _ROW + 3
        if bottom > y:
            parts.append(
                element(
                    "path",
                    d=f"M{x:.1f},{y:.1f} V{bottom:.1f}",
                    fill="none",
                    stroke=CRITICAL,
                    stroke_opacity=0.55,
                    stroke_dasharray="2 2",
                )
            )
    return element("g", *parts)


def _now(found: Analysis, axis: _Axis, bottom: float) -> str:
    if found.started is None or found.finished is not None:
        return ""
    x = axis.x(found.now - found.started)
    return element(
        "g",
        element("line", x1=x, x2=x, y1=_TOP - 10, y2=bottom, stroke=FAINT, stroke_width=1.5),
        label(x + 4, bottom + 12, "now", class_="small"),
    )


def worst(row: Group) -> State:
    """The state that a group shows: what went wrong first, then what goes on."""
    order: Sequence[State] = ("Failed", "Running", "Waiting", "Succeeded", "Skipped")
    return next(state for state in order if row.states[state])


def tooltip(found: Analysis, row: Group) -> str:
    """All that is known of a row, in words."""
    told = f"{row.label}: {', '.join(f'{n:,} {s.lower()}' for s, n in row.states.items())}"
    told += f"; takes {spoken(row.seconds)}"
    told += "; on the critical path" if row.critical else f"; slack {spoken(row.slack)}"
    wrong = [found.plan.names[step] for step in row.steps if found.works[step].state == "Failed"]
    if wrong and len(row.steps) > 1:
        told += f"; failed: {', '.join(wrong[:5])}{' and others' if len(wrong) > 5 else ''}"  # noqa: PLR2004  # a line
    return told
