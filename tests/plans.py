"""Plans for tests: random graphs, and what is true of them found by trying everything."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from seedbed.runtime.workflow.planning.plan import Plan


@st.composite
def plans(draw: st.DrawFn, most: int = 9) -> Plan:
    """A plan of a few steps whose positions are in no order."""
    count = draw(st.integers(1, most))
    order = draw(st.permutations(range(count)))
    needs: list[list[int]] = [[] for _ in range(count)]
    for place, step in enumerate(order):
        if place:
            needs[step] = draw(
                st.lists(st.sampled_from(order[:place]), unique=True, max_size=min(4, place))
            )
    return Plan.build([f"s{step}" for step in range(count)], needs)


def every_path(plan: Plan) -> list[tuple[int, ...]]:
    """All paths from a step that needs nothing to one that nothing needs."""

    def onward(path: tuple[int, ...]) -> list[tuple[int, ...]]:
        following = plan.dependents[path[-1]]
        return [found for step in following for found in onward((*path, step))] or [path]

    return [path for step, needs in enumerate(plan.needs) if not needs for path in onward((step,))]


def length(path: Sequence[int], spans: Sequence[float]) -> float:
    return sum(spans[step] for step in path)
