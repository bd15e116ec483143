"""Fencing tokens grow from leader to leader, also over an etcd that lost its data."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from seedbed.operator.fencing import FLOOR, largest_token, raised, status_token
from seedbed.runtime.coordination.memory import MemoryCoordinator
from tests.conftest import run_async


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(0, 5000))
def test_the_floor_never_sinks_and_lifts_the_token_above_all_seen(
    floor: int, token: int, seen: int
) -> None:
    new = raised(floor, token, seen)
    assert new >= floor
    assert new + token > seen


def test_the_largest_token_of_objects_with_and_without_a_status() -> None:
    objects: list[dict[str, Any]] = [
        {"status": {"fencingToken": 7}},
        {},
        {"status": {}},
        {"status": {"fencingToken": 3}},
    ]
    assert largest_token(objects) == 7
    assert largest_token([]) == 0


def test_leaders_after_a_loss_go_on_above_what_is_recorded() -> None:
    async def body() -> None:
        tokens = [900]
        coordinator = MemoryCoordinator()
        for _ in range(3):
            async with coordinator.lease(5.0) as lease:
                ownership = await coordinator.campaign("operator", "me", lease)
                tokens.append(await status_token(coordinator, ownership, max(tokens)))
                await coordinator.resign(ownership)
        assert tokens == sorted(set(tokens))
        assert int((await coordinator.settings(FLOOR))[FLOOR]) >= 900

    run_async(body())


def test_without_a_loss_the_token_is_the_create_revision() -> None:
    async def body() -> None:
        coordinator = MemoryCoordinator()
        async with coordinator.lease(5.0) as lease:
            ownership = await coordinator.campaign("operator", "me", lease)
            assert await status_token(coordinator, ownership, 0) == ownership.token
            assert FLOOR not in await coordinator.settings("")

    run_async(body())
