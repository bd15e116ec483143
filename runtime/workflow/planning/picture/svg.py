"""The few parts of SVG that the pictures need, the look that they share, and the legend.

State is told by pattern and sign as well as by colour. The colours are those that people with the usual
colour deficiencies can tell apart (Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from seedbed.runtime.workflow.planning.timings import State

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
INK, FAINT, GRID, PAPER = "#1c2733", "#66727f", "#e4e8ec", "#ffffff"
CRITICAL = "#b3306b"
FILLS: dict[State, str] = {
    "Succeeded": "#009e73",
    "Running": "#0072b2",
    "Failed": "#d55e00",
    "Skipped": "#b9c0c7",
    "Waiting": "#ffffff",
}
SIGNS: dict[State, str] = {
    "Succeeded": "✓",
    "Running": "▶",
    "Failed": "✗",
    "Skipped": "↷",
    "Waiting": "○",
}
STATES: Sequence[State] = ("Succeeded", "Running", "Failed", "Skipped", "Waiting")

_STRIPES = {
    "Running": '<path d="M-2,8 L8,-2 M2,12 L12,2" stroke="#ffffff" stroke-opacity="0.45" stroke-width="2"/>',
    "Failed": '<path d="M0,0 L8,8 M8,0 L0,8" stroke="#ffffff" stroke-opacity="0.6" stroke-width="1.5"/>',
    "Skipped": '<circle cx="4" cy="4" r="1.4" fill="#ffffff"/>',
    "Waiting": '<path d="M0,4 L8,4" stroke="#c3cad1" stroke-width="1"/>',
}


def text_of(content: object) -> str:
    """Any text inside an element; what XML cannot hold becomes a question mark."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in str(content))
    return escape(plain)


def element(name: str, *children: str, **attributes: object) -> str:
    """An element. `class_` becomes `class`, and `stroke_width` becomes `stroke-width`."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}={quoteattr(_value(value))}"
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(children)
    return f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>"


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def label(x: float, y: float, content: object, **attributes: object) -> str:
    """Text whose base line is at `y`."""
    return element("text", text_of(content), x=x, y=y, **attributes)


def document(width: float, height: float, title: str, description: str, *parts: str) -> str:
    """The whole picture, with its title and description for those who do not see it."""
    return element(
        "svg",
        element("title", text_of(title), id="title"),
        element("desc", text_of(description), id="description"),
        _style(),
        _patterns(),
        element("rect", width=width, height=height, fill=PAPER),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_labelledby="title description",
        font_family=FONT,
        font_size=12,
    )


def _style() -> str:
    return element(
        "style",
        f"text{{fill:{INK}}}.faint{{fill:{FAINT}}}.title{{font-size:17px;font-weight:600}}"
        ".critical{font-weight:600}.small{font-size:10.5px}.end{text-anchor:end}"
        ".middle{text-anchor:middle}g.row:hover{opacity:.75}",
    )


def _patterns() -> str:
    return element(
        "defs",
        *(
            element(
                "pattern",
                element("rect", width=8, height=8, fill=FILLS[state]),
                _STRIPES.get(state, ""),
                id=f"fill-{state}",
                width=8,
                height=8,
                patternUnits="userSpaceOnUse",
            )
            for state in STATES
        ),
        element(
            "marker",
            element("path", d="M0,0 L7,3.5 L0,7 z", fill=CRITICAL),
            id="arrow",
            markerWidth=5,
            markerHeight=5,
            viewBox="0 0 7 7",
            refX=6,
            refY=3.5,
            orient="auto",
        ),
    )


def bar(x: float, y: float, width: float, height: float, state: State) -> str:
    """A bar with the pattern of a state."""
    dashed = "3 2" if state == "Waiting" else None
    edge = "#8d99a5" if state in ("Waiting", "Skipped") else FILLS[state]
    return element(
        "rect",
        x=x,
        y=y,
        width=max(width, 1.5),
        height=height,
        rx=2,
        fill=f"url(#fill-{state})",
        stroke=edge,
        stroke_dasharray=dashed,
    )


def legend(x: float, y: float) -> str:
    """What signs, patterns and the outline mean."""
    parts: list[str] = []
    for state in STATES:
        parts += [
            bar(x, y - 10, 22, 12, state),
            label(x + 28, y, f"{SIGNS[state]} {state}", class_="small"),
        ]
        x += 105
    parts += [
        element(
            "rect",
            x=x,
            y=y - 10,
            width=22,
            height=12,
            rx=2,
            fill=PAPER,
            stroke=CRITICAL,
            stroke_width=2.5,
        ),
        label(x + 28, y, "◆ on the critical path", class_="small"),
    ]
    return element("g", *parts)


def shortened(content: str, most: int) -> str:
    """The text, or its beginning and end where it is too long."""
    if len(content) <= most:
        return content
    kept = most - 1
    return f"{content[: kept - kept // 3]}…{content[-(kept // 3) :]}"
