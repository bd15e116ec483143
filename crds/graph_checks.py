"""What a graph's steps may say together: who enters whom, and which fields fit which body."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from seedbed.crds.workflow import Step

Refuse = Callable[[str, str], None]
"""Takes the field that is wrong and what was expected, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a step through, or not.

    Attributes:
        step: who decides.
        arm: what it has to decide: the arm of a branch.
    """

    step: str
    arm: str


def find_gates(steps: Sequence[Step], refuse: Refuse) -> dict[str, Gate]:
    """The gate of each step that has one; a step has at most one."""
    known = {step.name for step in steps}
    found: dict[str, tuple[Gate, str]] = {}
    for name, gate, field in _gates(steps):
        if name not in known:
            refuse(field, f"there is no step `{name}`")
        elif name in found:
            refuse(field, f"the step `{name}` is entered by {found[name][1]} already")
        elif name == gate.step:
            refuse(field, f"the step `{name}` cannot enter itself")
        else:
            found[name] = (gate, field)
    return {name: gate for name, (gate, _) in found.items()}


def _gates(steps: Sequence[Step]) -> Iterator[tuple[str, Gate, str]]:
    """Each step that is named as entered by another, with its gate and where that stands."""
    for position, step in enumerate(steps):
        if step.branch is not None:
            for arm, names in step.branch.arms.items():
                field = f"spec.steps[{position}].branch.{arm}"
                for place, name in enumerate(names):
                    yield name, Gate(step.name, arm), f"{field}[{place}]"


# Fields that only mean something where a worker executes the step.
_OF_WORK = (
    ("for_each", "forEach"),
    ("pool", "pool"),
    ("retry", "retry"),
    ("timeout", "timeout"),
)


def check_body(step: Step, field: str, refuse: Refuse) -> None:
    """Refuse fields that do not fit the body of the step."""
    if step.branch is None:
        return
    for name, written in _OF_WORK:
        if getattr(step, name) is not None:
            refuse(f"{field}.{written}", "has no meaning for a branch, which no worker executes")
