"""The rewritings of the optimiser, each of which keeps what a plan means; `optimise` tells why."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from seedbed.crds.flow import MAX_NEEDS
from seedbed.runtime.workflow.planning.draft import Draft, renamed_fields

_LONGEST_RESULT = 4096


def widen(draft: Draft) -> None:
    """Drop the needs without data of pure steps, and have their dependents wait instead.

    `owed` holds, for a step that was let go, what it waited for and its dependents must wait for still.
    """
    loose = [
        draft.orderly[place]
        and node.step.pure
        and all(draft.orderly[step] for step in draft.plan.dependents[place])
        for place, node in enumerate(draft.nodes)
    ]
    needs: list[int] = [0] * len(loose)
    owed: list[int] = [0] * len(loose)
    leads: list[int] = [0] * len(loose)  # all that comes before a step, now
    reduced: dict[int, int] = {}
    for place in draft.order:
        wanted, passed = _bits(draft.needs[place]), 0
        for need in draft.needs[place]:
            passed |= owed[need]
        if loose[place]:
            kept = _bits(draft.data[place])
            owed[place] = (wanted | passed) & ~kept
            wanted = kept
        elif passed:
            wanted = _without_implied(wanted | passed, _bits(draft.data[place]), leads, reduced)
        needs[place] = wanted
        for need in _members(wanted):
            leads[place] |= leads[need] | 1 << need
        if wanted.bit_count() > MAX_NEEDS:
            told = (
                f"steps keep their order: `{draft.nodes[place].name}` would have to name more than"
            )
            draft.left_out.append(f"{told} {MAX_NEEDS:,} others in `needs`")
            return
    if draft.result is None and not _keep_result(draft, needs):
        draft.left_out.append(
            "steps keep their order: the result would need too long an expression"
        )
        return
    for place, wanted in enumerate(needs):
        found = _members(wanted)
        dropped = draft.needs[place] - found
        if dropped and loose[place]:
            message = f"is pure and reads nothing of {draft.names(dropped)}: need not wait for them"
            draft.note("widened", draft.nodes[place].name, message, len(dropped))
        draft.needs[place] = found


def _keep_result(draft: Draft, needs: Sequence[int]) -> bool:
    """Write the result down where other steps would be the last ones; False where it is too long."""
    needed = 0
    for wanted in needs:
        needed |= wanted
    if all(needed >> need & 1 for found in draft.plan.needs for need in found):
        return True
    last = draft.graph.leaves
    reads = {name: f"steps['{name}'].output" for name in last}
    members = ", ".join(f"'{name}': {read}" for name, read in reads.items())
    result = reads[last[0]] if len(last) == 1 else f"{{{members}}}"
    if len(result) > _LONGEST_RESULT:
        return False
    draft.result = result
    return True


def _without_implied(wanted: int, data: int, leads: Sequence[int], known: dict[int, int]) -> int:
    """Needs without those that another one leads to; data stays. Many steps share the same needs."""
    if wanted not in known:
        implied = 0
        for need in _members(wanted):
            implied |= leads[need]
        known[wanted] = wanted & ~implied
    return known[wanted] | (wanted & data)


def merge(draft: Draft) -> None:
    """Have one of several equal pure steps stand for all, in the plan's order."""
    seen: dict[bytes, int] = {}
    leaves_count = draft.result is None
    for place in draft.order:
        node = draft.nodes[place]
        draft.needs[place] = {draft.merged.get(need, need) for need in draft.needs[place]}
        draft.data[place] = {draft.merged.get(need, need) for need in draft.data[place]}
        dependents = draft.plan.dependents[place]
        free = draft.orderly[place] and all(draft.orderly[step] for step in dependents)
        last = leaves_count and not dependents
        if not (node.step.pure and free) or last or node.name in draft.pinned:
            continue
        twin = seen.setdefault(_likeness(draft, place), place)
        if twin != place:
            draft.merged[place] = twin
            message = f"does the same as `{draft.nodes[twin].name}`, which runs for both"
            draft.note("merged", node.name, message)


def _likeness(draft: Draft, place: int) -> bytes:
    """Equal for steps that do the same with the same inputs under the same conditions."""
    step = draft.nodes[place].step
    names = {
        draft.nodes[need].name: draft.nodes[draft.merged[need]].name
        for need in draft.plan.needs[place]
        if need in draft.merged
    }
    if names:
        step = step.model_copy(update=renamed_fields(step, names))
    told = step.model_dump(mode="json", exclude={"name", "needs", "estimate"})
    told["order"] = sorted(draft.needs[place] - draft.data[place])
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS)


def reduce_needs(draft: Draft) -> None:
    """Drop needs without data that another need leads to (transitive reduction)."""
    leads = [0] * len(draft.nodes)
    for place in draft.order:
        behind = 0
        for need in draft.needs[place]:
            behind |= leads[need]
        if draft.orderly[place]:
            implied = {
                need for need in draft.needs[place] - draft.data[place] if behind >> need & 1
            }
            if implied:
                draft.needs[place] -= implied
                message = f"waits for {draft.names(implied)} anyway, by its other needs"
                draft.note("reduced", draft.nodes[place].name, message, len(implied))
        leads[place] = behind | _bits(draft.needs[place])


def _bits(steps: set[int]) -> int:
    found = 0
    for step in steps:
        found |= 1 << step
    return found


def _members(bits: int) -> set[int]:
    found = set()
    while bits:
        lowest = bits & -bits
        found.add(lowest.bit_length() - 1)
        bits ^= lowest
    return found
