"""Draws a run as SVG: accuracy over the epochs, and below it the stage of each seed."""

from __future__ import annotations

from collections.abc import Sequence

from seedbed.runtime.seeds.stages import Stage

COLOURS = {
    Stage.DORMANT: "#eceff1",
    Stage.GERMINATED: "#dcedc8",
    Stage.TRAINING: "#aed581",
    Stage.GRAFTING: "#4db6ac",
    Stage.STABILISATION: "#4fc3f7",
    Stage.EVALUATING: "#7986cb",
    Stage.FINE_TUNING: "#9575cd",
    Stage.FOSSILISED: "#37474f",
    Stage.CULLED: "#e57373",
    Stage.CANCELLED: "#ffb74d",
    Stage.ROLLED_BACK: "#d32f2f",
}
LEFT, WIDTH, TOP, HEIGHT, ROW = 60, 640, 30, 180, 9
_TEXT = 'font-family="sans-serif" font-size="11" fill="#263238"'


def drawn(
    accuracies: Sequence[float], stages: Sequence[Sequence[int]], clean: float, shift: str
) -> str:
    """The picture of one run.

    Args:
        accuracies: on the held-out data after each epoch.
        stages: of each seed after each epoch.
        clean: accuracy before the shift.
        shift: its name.
    """
    seeds, step = len(stages[0]), WIDTH / len(accuracies)
    below = TOP + HEIGHT + 30
    height = below + seeds * ROW + 60
    body = [
        _axis(clean),
        _line(accuracies, step),
        *_strips(stages, step, below),
        _legend(stages, below + seeds * ROW + 22),
        f'<text x="{LEFT}" y="18" {_TEXT}>Held-out accuracy, digits {shift}</text>',
        f'<text x="{LEFT}" y="{below - 8}" {_TEXT}>Stage of each of {seeds} seeds</text>',
    ]
    size = f'width="{LEFT + WIDTH + 20}" height="{height}"'
    inside = "\n".join(body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{_ground(height)}\n{inside}\n</svg>\n'


def _ground(height: int) -> str:
    return f'<rect width="{LEFT + WIDTH + 20}" height="{height}" fill="#ffffff"/>'


def _y(accuracy: float) -> float:
    return TOP + HEIGHT * (1 - accuracy)


def _axis(clean: float) -> str:
    lines = []
    for tenth in range(0, 11, 2):
        y = _y(tenth / 10)
        lines.append(
            f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eceff1"/>'
            f'<text x="{LEFT - 30}" y="{y + 4:.1f}" {_TEXT}>{tenth / 10:.1f}</text>'
        )
    y = _y(clean)
    lines.append(
        f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#2e7d32" '
        f'stroke-dasharray="5 4"/><text x="{LEFT + 4}" y="{y - 4:.1f}" {_TEXT}>before the shift</text>'
    )
    return "\n".join(lines)


def _line(accuracies: Sequence[float], step: float) -> str:
    points = " ".join(
        f"{LEFT + step * (at + 0.5):.1f},{_y(value):.1f}" for at, value in enumerate(accuracies)
    )
    return f'<polyline points="{points}" fill="none" stroke="#2e7d32" stroke-width="2"/>'


def _strips(stages: Sequence[Sequence[int]], step: float, below: int) -> list[str]:
    """A row for each seed; epochs in the same stage are one rectangle."""
    strips = []
    for seed in range(len(stages[0])):
        first = 0
        row = [epoch[seed] for epoch in stages]
        for at in range(1, len(row) + 1):
            if at == len(row) or row[at] != row[first]:
                strips.append(
                    f'<rect x="{LEFT + step * first:.1f}" y="{below + seed * ROW}" '
                    f'width="{step * (at - first):.1f}" height="{ROW - 1}" '
                    f'fill="{COLOURS[Stage(row[first])]}"/>'
                )
                first = at
    return strips


def _legend(stages: Sequence[Sequence[int]], y: int) -> str:
    seen = sorted({stage for epoch in stages for stage in epoch})
    marks = []
    for at, number in enumerate(seen):
        x, line = LEFT + 105 * (at % 6), y + 18 * (at // 6)
        marks.append(
            f'<rect x="{x}" y="{line - 9}" width="10" height="10" fill="{COLOURS[Stage(number)]}"/>'
            f'<text x="{x + 14}" y="{line}" {_TEXT}>{Stage(number).label}</text>'
        )
    return "\n".join(marks)
