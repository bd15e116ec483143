"""Items that wait in turns, by themselves and in a work queue of a bus in the same process."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.bus.turns import Turns
from tests.conftest import run_async


@dataclass(frozen=True)
class Item:
    owner: str
    number: int


def test_a_single_item_does_not_wait_for_the_thousands_of_another_owner() -> None:
    async def body() -> None:
        bus = MemoryBus()
        await bus.put_all("team.general", [(f"many/{n}/1", b"many %d" % n) for n in range(3000)])
        await bus.put_work("team.general", "one/a/1", b"one")
        async with bus.pull_work("team.general") as pull:
            first = [delivery.payload for delivery in await pull.many(1.0, 3)]
            assert first == [b"many 0", b"one", b"many 1"]
            # One who comes again waits for no more than one item of each other.
            await bus.put_work("team.general", "one/b/1", b"one again")
            assert [each.payload for each in await pull.many(1.0, 2)] == [b"many 2", b"one again"]
        await bus.close()

    run_async(body())


def test_what_is_given_back_comes_before_all_others_and_what_is_acknowledged_does_not() -> None:
    async def body() -> None:
        bus = MemoryBus()
        names = ["a/1", "b/1", "a/2", "b/2"]
        await bus.put_all("team.general", [(name, name.encode()) for name in names])
        async with bus.pull_work("team.general") as pull:
            first, second = await pull.many(1.0, 2)
            await second.give_back()
            await first.give_back()
            await second.ack()
            left = [each.payload for each in await pull.many(1.0, 9)]
            assert left == [b"a/1", b"a/2", b"b/2"]
        await bus.close()

    run_async(body())


@given(
    st.lists(
        st.one_of(
            st.sampled_from("abc"),
            st.just("pop"),
            st.tuples(st.sampled_from(["first", "remove"]), st.integers(0, 30)),
        ),
        max_size=60,
    )
)
def test_owners_take_turns_and_each_keeps_its_order(steps: list[str | tuple[str, int]]) -> None:
    turns: Turns[Item] = Turns()
    waiting: defaultdict[str, list[Item]] = defaultdict(list)
    front: list[Item] = []
    gone: list[Item] = []
    since: dict[str, int] = defaultdict(int)  # items of others since an owner waits for its next
    for number, step in enumerate(steps):
        owners = [owner for owner in waiting if waiting[owner]]
        if step == "pop":
            if not len(turns):
                continue
            item = turns.pop()
            gone.append(item)
            if front:
                assert item == front.pop(0)
                continue
            assert item == waiting[item.owner].pop(0)
            for owner in owners:
                since[owner] = 0 if owner == item.owner else since[owner] + 1
                assert since[owner] < 3  # the owners that there are
        elif isinstance(step, str):
            if not waiting[step]:
                since[step] = 0
            waiting[step].append(Item(step, number))
            turns.append(waiting[step][-1])
        elif step[0] == "first" and gone:
            front.insert(0, gone.pop(step[1] % len(gone)))
            turns.put_first([front[0]])
        elif step[0] == "remove" and len(turns):
            item = list(turns)[step[1] % len(turns)]
            turns.remove(item)
            turns.remove(item)
            assert item not in turns
            (front if item in front else waiting[item.owner]).remove(item)
        everything = [*front, *(item for line in waiting.values() for item in line)]
        assert len(turns) == len(everything)
        assert set(turns) == set(everything)
        assert all(item in turns for item in everything)
