"""Fencing tokens that grow for ever, also when etcd starts again from nothing.

A token is the create revision of the leader's key. An etcd without its data counts from 1 again, while
objects still carry the larger tokens of before, and the API server refuses to let them shrink. So the
statuses carry the token on top of a floor, which is kept in etcd and raised by a leader that finds larger
tokens on the objects. It is raised under the leadership, so a leader of the past cannot touch it; floor
and create revision both only grow from leader to leader, so their sum does.
"""

from __future__ import annotations

from collections.abc import Iterable

from seedbed.controllers.plan import Raw
from seedbed.operator.difference import TOKEN
from seedbed.runtime.coordination.port import Coordinator, Ownership

FLOOR = "fencing/floor"


def raised(floor: int, token: int, seen: int) -> int:
    """The floor under which `floor + token` is larger than every token seen on an object."""
    return floor if floor + token > seen else seen


def largest_token(objects: Iterable[Raw]) -> int:
    """The largest fencing token that the objects carry."""
    return max((int((obj.get("status") or {}).get(TOKEN, 0)) for obj in objects), default=0)


async def status_token(coordinator: Coordinator, ownership: Ownership, seen: int) -> int:
    """The token for this leader's statuses, with the floor raised where that is needed.

    Raises:
        FencedError: another process leads.
    """
    kept = (await coordinator.settings(FLOOR)).get(FLOOR)
    before = 0 if kept is None else int(kept)
    floor = raised(before, ownership.token, seen)
    if floor != before:
        await coordinator.put(FLOOR, str(floor).encode(), under=ownership)
    return floor + ownership.token
