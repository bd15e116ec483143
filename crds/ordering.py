"""Orders of steps by what they need: generations of them, and the cycles that forbid any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def generations(
    needs: Mapping[str, Sequence[str]], dependents: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, ...]]:
    """Kahn's algorithm: every step stands in the first generation after all that it needs.

    What stands on a cycle, or behind one, is left out.
    """
    waiting = {name: len(needed) for name, needed in needs.items()}
    place = {name: position for position, name in enumerate(needs)}
    level = [name for name, count in waiting.items() if count == 0]
    while level:
        yield tuple(level)
        following: list[str] = []
        for name in level:
            for dependent in dependents[name]:
                waiting[dependent] -= 1
                if waiting[dependent] == 0:
                    following.append(dependent)
        following.sort(key=place.__getitem__)
        level = following


def _sortable(needs: Mapping[str, Sequence[str]]) -> set[str]:
    """The steps that can be put into an order; what is left out waits for itself."""
    waiting = {name: len(needed) for name, needed in needs.items()}
    dependents: dict[str, list[str]] = {name: [] for name in needs}
    for name, needed in needs.items():
        for need in needed:
            dependents[need].append(name)
    ready = [name for name, count in waiting.items() if count == 0]
    for name in ready:
        for dependent in dependents[name]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                ready.append(dependent)
    return set(ready)


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The names on one cycle, in the order of needing, the first one not repeated; empty where none is.

    Every step that cannot be put into an order needs another such step; following one need after the
    other must come back to a step seen before.
    """
    sorted_out = _sortable(needs)
    if len(sorted_out) == len(needs):
        return []
    name = next(name for name in needs if name not in sorted_out)
    seen: dict[str, int] = {}
    path: list[str] = []
    while name not in seen:
        seen[name] = len(path)
        path.append(name)
        name = next(need for need in needs[name] if need not in sorted_out)
    return path[seen[name] :]


def drawn(cycle: Sequence[str], limit: int = 10) -> str:
    """A cycle on one line, with at most `limit` names."""
    shown = cycle if len(cycle) <= limit else [*cycle[: limit - 1], f"… {len(cycle)} steps …"]
    return " → ".join([*shown, cycle[0]])
