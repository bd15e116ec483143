"""Following a run: complete and in order whatever the event log loses, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from seedbed.crds.errors import InvalidError, QueueFullError
from seedbed.crds.messages import RunSummary, StepError, StepKey
from seedbed.runtime.bus.events import Event, EventLog
from seedbed.runtime.bus.memory_events import MemoryEvents
from seedbed.runtime.store.port import Entry, RunRow, Store
from seedbed.runtime.workflow.live import KEPT_ENTRIES, LiveRuns, live_runs
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import (
    Record,
    RunFinished,
    RunStarted,
    StepFailed,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.run_events import GAP, RunEvent, events_of, position
from seedbed.runtime.workflow.telling import ENTRY_LIMIT, read, tell_end, tell_entries, written
from tests.conftest import run_async

RUN = "run-1"
END = RunFinished(9.0, "Succeeded", "Succeeded", "", {"answer": 42})


def done(number: int, output: object = None) -> StepSucceeded:
    return StepSucceeded(StepKey("s", number), 1, 2.0, "w", 1.0, 2.0, output)


@dataclass
class Journals:
    """The journal of one run, and how often it was read."""

    entries: list[Entry] = field(default_factory=list)
    finished: bool = False
    reads: int = 0

    def write(self, *records: Record) -> Entry:
        encoded = encode_records(records)
        newest = self.entries[-1].seq if self.entries else 0
        self.entries.append(Entry(RUN, newest + 1, encoded.data))
        self.finished = isinstance(records[-1], RunFinished)
        return self.entries[-1]

    async def journal(self, run: str, after: int = 0, *, limit: int = 0) -> list[Entry]:
        self.reads += 1
        return [entry for entry in self.entries if entry.seq > after][: limit or None]

    async def run(self, run: str) -> RunRow:
        return RunRow(RUN, 0, "team", "plan", b"{}", b"{}", self.finished)


@asynccontextmanager
async def following(
    journals: Journals, events: EventLog | None, look_every: float = 3600.0
) -> AsyncIterator[LiveRuns]:
    async with live_runs(cast("Store", journals), events, look_every=look_every) as live:
        yield live


async def all_of(live: LiveRuns, after: str = "") -> list[RunEvent]:
    return [event async for event in live.follow(RUN, after) if event is not None]


def names(events: Sequence[RunEvent]) -> list[str]:
    return [str(event.data.get("name", event.kind)) for event in events]


def test_what_a_journal_says_as_events() -> None:
    key = StepKey("fetch", 3)
    records: list[Record] = [
        RunStarted(1.0),
        StepScheduled(key, 1, 1.0, "call", "general", 60.0, {"secret": "x"}, {"entry": "a:b"}),
        StepFailed(key, 1, 2.0, "w", 1.0, 2.0, StepError("timeout", "late"), 5.0),
        StepFailed(key, 2, 3.0, "w", 2.0, 3.0, StepError("timeout", "late"), None),
        StepSkipped(StepKey("other"), 3.0),
        done(1, {"small": 1}),
        done(2, "x" * 5000),
        END,
    ]
    told = list(events_of(Entry(RUN, 7, encode_records(records).data)))
    assert [event.id for event in told] == [f"7.{number}" for number in range(8)]
    assert [event.kind for event in told] == [
        "run.started",
        "step.scheduled",
        "step.retried",
        "step.failed",
        "step.skipped",
        "step.succeeded",
        "step.succeeded",
        "run.finished",
    ]
    assert told[1].data["name"] == "fetch[3]"
    assert "secret" not in str(told[1].data)
    assert told[2].data["error"] == {"code": "timeout", "message": "late"}
    assert told[5].data["output"] == {"small": 1}
    assert told[6].data["outputBytes"] == 5002
    assert told[7].data["result"] == {"answer": 42}


def test_a_large_output_that_stands_elsewhere_is_not_needed() -> None:
    encoded = encode_records([done(1, "x" * 100_000)])
    assert encoded.values
    (told,) = events_of(Entry(RUN, 1, encoded.data))
    assert told.kind == "step.succeeded"


def test_an_entry_travels_whole_or_as_its_position() -> None:
    small, large = Entry(RUN, 3, b"\n[1]\n"), Entry(RUN, 4, b"x" * (ENTRY_LIMIT + 1))
    assert read(Event(RUN, "journal", 0.0, written(small))) == small
    assert read(Event(RUN, "journal", 0.0, written(large))) == Entry(RUN, 4, b"")
    with pytest.raises(InvalidError):
        read(Event(RUN, "other", 0.0, b"3\n"))


def test_history_then_live_without_gap_or_repeat() -> None:
    async def body() -> None:
        journals, events = Journals(), MemoryEvents()
        journals.write(RunStarted(1.0))
        journals.write(done(0), done(1))
        async with following(journals, events) as live:
            stream = live.follow(RUN)
            got = [await anext(stream) for _ in range(3)]
            for number in range(2, 300):
                tell_entries(events, [journals.write(done(number))])
                if number % 7 == 0:
                    await asyncio.sleep(0)
            tell_entries(events, [journals.write(END)])
            got += [event async for event in stream]
        assert names([event for event in got if event]) == [
            "run.started",
            *(f"s[{number}]" for number in range(300)),
            "run.finished",
        ]
        await events.close()

    run_async(body())


@pytest.mark.parametrize("cut", range(6))
def test_a_reader_that_was_cut_off_goes_on_behind_its_last_event(cut: int) -> None:
    async def body() -> None:
        journals = Journals()
        journals.write(RunStarted(1.0))
        journals.write(done(0), done(1), done(2))
        journals.write(done(3), END)
        async with following(journals, None) as live:
            everything = await all_of(live)
            assert len(everything) == 6
            assert await all_of(live, everything[cut].id) == everything[cut + 1 :]

    run_async(body())


@pytest.mark.parametrize("lost", ["all", "half", "bodies"])
def test_what_the_log_loses_is_read_from_the_journal(lost: str) -> None:
    async def body() -> None:
        journals, events = Journals(), MemoryEvents()
        keep: dict[str, Callable[[Entry], Entry | None]] = {
            "all": lambda entry: None,
            "half": lambda entry: entry if entry.seq % 2 else None,
            "bodies": lambda entry: Entry(entry.run, entry.seq, b"x" * (ENTRY_LIMIT + 1)),
        }
        journals.write(RunStarted(1.0))
        async with following(journals, events, look_every=0.02) as live:
            reading = asyncio.create_task(all_of(live))
            for number in range(100):
                told = keep[lost](journals.write(done(number)))
                tell_entries(events, [told] if told else [])
                await asyncio.sleep(0)
            journals.write(END)
            got = await reading
        assert names(got)[1:-1] == [f"s[{number}]" for number in range(100)]
        await events.close()

    run_async(body())


@pytest.mark.req("DSX-22")
def test_a_reader_that_does_not_read_costs_a_bounded_amount_and_misses_nothing() -> None:
    async def body() -> None:
        journals, events = Journals(), MemoryEvents()
        journals.write(RunStarted(1.0))
        async with following(journals, events) as live:
            stream = live.follow(RUN)
            got = [await anext(stream)]
            for number in range(3000):
                tell_entries(events, [journals.write(done(number, "x" * 500))])
                await asyncio.sleep(0)
            await events.flush()
            tell_entries(events, [journals.write(END)])
            await events.flush()
            (listener,) = (one for all_ in live._listeners.values() for one in all_)
            while not listener.wake.is_set():
                await asyncio.sleep(0)
            assert len(listener._entries) <= KEPT_ENTRIES
            got += [event async for event in stream]
            assert len(got) == 3002
            assert not any(live._listeners.values())
            assert not live._hearing
        await events.close()

    run_async(body())


def test_a_journal_that_is_not_kept_so_far_back_is_said_to_have_a_gap() -> None:
    async def body() -> None:
        journals = Journals()
        for number in range(5):
            journals.write(done(number))
        journals.write(END)
        del journals.entries[:3]
        async with following(journals, None) as live:
            got = await all_of(live, "1.0")
        assert [event.kind for event in got] == [
            GAP,
            "step.succeeded",
            "step.succeeded",
            "run.finished",
        ]
        assert got[0].data["to"] == "4.0"

    run_async(body())


def test_nothing_to_tell_is_told_as_a_heartbeat_and_the_end_ends() -> None:
    async def body() -> None:
        journals = Journals()
        journals.write(RunStarted(1.0))
        async with following(journals, None, look_every=0.01) as live:
            stream = live.follow(RUN, heartbeat=0.01)
            assert (await anext(stream)) is not None
            assert await anext(stream) is None
            journals.write(END)
            rest = [event async for event in stream if event is not None]
            assert [event.kind for event in rest] == ["run.finished"]
            assert await all_of(live, rest[0].id) == []

    run_async(body())


def test_telling_never_stops_the_engine() -> None:
    class Full(MemoryEvents):
        def put(self, event: Event) -> None:
            raise QueueFullError("events", 1)

    tell_entries(Full(), [Entry(RUN, 1, b"[]")])
    tell_end(Full(), RunSummary(RUN, "team", "plan", 1, "Succeeded", "Succeeded"))


def test_an_id_that_is_none_is_refused() -> None:
    assert position("12.3") == (12, 3)
    for wrong in ("12", "a.b", "1.2.3", "-1.0", "9" * 30 + ".1"):
        with pytest.raises(InvalidError):
            position(wrong)
