"""What the one who works through batches writes, under a fencing token.

One process works at a time. Each write carries its token, so that a former one that was paused cannot
write any more. What a line has cost is written in the same transaction as its answer: neither is
there without the other, and a line that is done is never paid again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, delete, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from seedbed.runtime.store.batches import (
    FIRST_ERROR,
    OPEN,
    BatchStatus,
    LineRow,
    LineState,
    PartRow,
)
from seedbed.runtime.store.ledger import Drawn, Turn
from seedbed.runtime.store.schema import batch_files, batch_lines, batch_parts, batches, columns_of
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger

PARTITION = -1
"""Of the fencing tokens: the runs' partitions are counted from 0."""
_COUNTED = {
    "provider": "by_provider",
    "gateway": "by_gateway",
    "cache": "by_cache",
    "equal": "by_equal",
}


@dataclass(frozen=True, slots=True)
class LineResult:
    """What became of a line.

    Attributes:
        way: `provider`, `gateway`, `cache`, `equal`, or empty where nobody was asked.
        status: HTTP's.
        answer: the body as JSON: an answer, or an error in OpenAI's form.
        nanos: nano-dollars that it cost; `saved` those that it would have cost more.
    """

    number: int
    way: str
    status: int
    answer: bytes
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nanos: int = 0
    saved: int = 0


TurnOf = Callable[[Sequence[LineResult]], Turn | None]
"""The ledger's turn for the results that are new."""

_ADVANCE = (
    update(batch_lines)
    .where(
        batch_lines.c.batch == bindparam("of"),
        batch_lines.c.number == bindparam("at"),
        batch_lines.c.state != "done",
    )
    .values(state=bindparam("new_state"), target=bindparam("new_target"))
)
_SEND = (
    update(batch_lines)
    .where(batch_lines.c.batch == bindparam("of"), batch_lines.c.number == bindparam("at"))
    .values(state="sent", part=bindparam("new_part"))
)
_TAKE_BACK = (
    update(batch_lines)
    .where(batch_lines.c.part == bindparam("old_part"), batch_lines.c.batch == bindparam("of"))
    .where(batch_lines.c.state == "sent")
    .values(state=bindparam("new_state"), part="")
)
_FINISH = (
    update(batch_lines)
    .where(batch_lines.c.batch == bindparam("of"), batch_lines.c.number == bindparam("at"))
    .values(
        state="done",
        way=bindparam("new_way"),
        status=bindparam("new_status"),
        answer=bindparam("new_answer"),
        nanos=bindparam("new_nanos"),
        saved=bindparam("new_saved"),
    )
)
_UNDONE = select(batch_lines.c.number, batch_lines.c.same_as).where(
    batch_lines.c.batch == bindparam("of"),
    batch_lines.c.state != "done",
    batch_lines.c.number.in_(bindparam("some", expanding=True))
    | batch_lines.c.same_as.in_(bindparam("some", expanding=True)),
)
_SOME = select(batch_lines).where(
    batch_lines.c.batch == bindparam("of"),
    batch_lines.c.number.in_(bindparam("some", expanding=True)),
    batch_lines.c.state != "done",
)
_OF_PART = (
    select(batch_lines)
    .where(batch_lines.c.batch == bindparam("of"), batch_lines.c.part == bindparam("in_part"))
    .where(batch_lines.c.state == "sent", batch_lines.c.number > bindparam("after"))
    .order_by(batch_lines.c.number)
    .limit(bindparam("most"))
)


_SOME_GONE = delete(batch_lines).where(
    batch_lines.c.batch == bindparam("of"),
    batch_lines.c.number.in_(
        select(batch_lines.c.number).where(batch_lines.c.batch == bindparam("of")).limit(1000)
    ),
)
_NEVER_BEGUN = delete(batch_lines).where(
    batch_lines.c.batch == bindparam("of"),
    exists().where(
        batches.c.id == batch_lines.c.batch,
        batches.c.status == "failed",
        batches.c.in_progress_at.is_(None),
    ),
)


class _NotGrantedError(Exception):
    def __init__(self, drawn: list[Drawn]) -> None:
        self.drawn = drawn


class SqlBatchWork:
    """Writes under `token`. Errors: UnavailableError; FencedError where somebody else works by now."""

    def __init__(self, store: SqlStore, ledger: SqlLedger, token: int) -> None:
        self._store = store
        self._ledger = ledger
        self._token = token
        self._add = store.insert(batch_lines).on_conflict_do_nothing(
            index_elements=["batch", "number"]
        )

    async def claim(self) -> None:
        """Nobody with an older token writes from now on."""
        await self._store.claim(PARTITION, self._token)

    def _writing(self) -> Any:
        return self._store.fenced(PARTITION, self._token)

    async def add_lines(self, rows: Sequence[LineRow]) -> None:
        """Take lines in; those that are there already stay as they are."""
        values = [columns_of(row) for row in rows]
        if values:
            async with self._writing() as connection:
                await connection.execute(self._add, values)

    async def change(self, batch: str, expected: Sequence[BatchStatus], **fields: Any) -> bool:
        """Change a batch's columns, as long as its status is one of these; whether it was."""
        statement = (
            update(batches)
            .where(batches.c.id == batch, batches.c.status.in_(expected))
            .values(**fields)
        )
        async with self._writing() as connection:
            done = await connection.execute(statement)
            return bool(done.rowcount)

    async def advance(self, batch: str, lines: Sequence[tuple[int, LineState, str]]) -> None:
        """Say of lines, by number, which way they go and to which model."""
        rows = [
            {"of": batch, "at": number, "new_state": state, "new_target": target}
            for number, state, target in lines
        ]
        if rows:
            async with self._writing() as connection:
                await connection.execute(_ADVANCE, rows)

    async def reserve(self, turn: Turn) -> list[Drawn]:
        """Hold money: all draws or none are granted; what became of each."""
        try:
            async with self._writing() as connection:
                return await self._granted(connection, turn)
        except _NotGrantedError as refused:
            return refused.drawn

    async def refused(self, turn: Turn) -> None:
        """Note in the ledger what budgets did not allow."""
        async with self._writing() as connection:
            await self._ledger.take_within(connection, turn)

    async def plan(self, part: PartRow, numbers: Sequence[int], turn: Turn) -> list[Drawn]:
        """Make a part of lines, with the money for them; nothing is made where a draw is refused."""
        values = columns_of(part)
        rows = [{"of": part.batch, "at": number, "new_part": part.id} for number in numbers]
        try:
            async with self._writing() as connection:
                drawn = await self._granted(connection, turn)
                await connection.execute(insert(batch_parts), values)
                await connection.execute(_SEND, rows)
                return drawn
        except _NotGrantedError as refused:
            return refused.drawn

    async def _granted(self, connection: AsyncConnection, turn: Turn) -> list[Drawn]:
        drawn = await self._ledger.take_within(connection, turn) if turn.draws else []
        if not all(each.granted for each in drawn):
            raise _NotGrantedError(drawn)
        return drawn

    async def note(self, part: PartRow, **fields: Any) -> PartRow:
        """Write down what is known of a part."""
        statement = update(batch_parts).where(batch_parts.c.id == part.id).values(**fields)
        async with self._writing() as connection:
            await connection.execute(statement)
        return replace(part, **fields)

    async def end(self, part: PartRow, holder: str, back: LineState | None = None) -> None:
        """A part is over: its money is free, its row ends; what is left of its lines goes `back`."""
        async with self._writing() as connection:
            if back is not None:
                values = {"of": part.batch, "old_part": part.id, "new_state": back}
                await connection.execute(_TAKE_BACK, values)
            ended = update(batch_parts).where(batch_parts.c.id == part.id).values(state="ended")
            await connection.execute(ended)
            await self._ledger.forget_holder(connection, holder)

    async def free(self, holder: str) -> None:
        """Nothing is held by this holder any more."""
        async with self._writing() as connection:
            await self._ledger.forget_holder(connection, holder)

    async def part_lines(self, part: PartRow, after: int, limit: int) -> list[LineRow]:
        """Lines of a part without an answer yet, in order."""
        rows = await self._store.rows(
            _OF_PART, of=part.batch, in_part=part.id, after=after, most=limit
        )
        return [LineRow(*row) for row in rows]

    async def some(self, batch: str, numbers: Sequence[int]) -> list[LineRow]:
        """Lines by their numbers, those that are not done."""
        rows = await self._store.rows(_SOME, of=batch, some=list(numbers))
        return [LineRow(*row) for row in rows]

    async def answered(
        self, batch: str, results: Sequence[LineResult], turn_of: TurnOf
    ) -> list[LineResult]:
        """Write results and what they cost; those of lines that are done already change nothing.

        Lines that ask the same get the same answer, for nothing. What was written is given back.
        """
        async with self._writing() as connection:
            numbers = [each.number for each in results]
            undone = await connection.execute(_UNDONE, {"of": batch, "some": numbers})
            same_as: dict[int, int | None] = {int(number): same for number, same in undone}
            new = [each for each in results if each.number in same_as]
            by_number = {each.number: each for each in results}
            equal = [
                _equal(number, by_number[same])
                for number, same in same_as.items()
                if same in by_number and number not in by_number
            ]
            written = [*new, *equal]
            if written:
                await connection.execute(_FINISH, [_finished(batch, each) for each in written])
                await connection.execute(_counted(batch, written))
            turn = turn_of(new)
            if turn is not None:
                await self._ledger.take_within(connection, turn)
            return written

    async def charge(self, batch: str, nanos: int, turn: Turn) -> None:
        """Write what was spent in vain: the line has no answer yet."""
        more = update(batches).where(batches.c.id == batch).values(nanos=batches.c.nanos + nanos)
        async with self._writing() as connection:
            await connection.execute(more)
            await self._ledger.take_within(connection, turn)

    async def finish(
        self, batch: str, status: BatchStatus, now: float, files: Sequence[Any]
    ) -> None:
        """The batch has ended; `files` are the rows of what it has written."""
        done = (
            update(batches)
            .where(batches.c.id == batch, batches.c.status.in_(OPEN))
            .values(status=status, ended_at=now, reason="")
        )
        rows = [columns_of(row) for row in files]
        async with self._writing() as connection:
            ended = await connection.execute(done)
            if ended.rowcount and rows:
                await connection.execute(insert(batch_files), rows)
            if status == "failed":
                await connection.execute(_NEVER_BEGUN, {"of": batch})

    async def fail(self, batch: str, errors: str, now: float) -> None:
        """The batch cannot go on: it fails at once where it has not begun, else what is under way ends.

        `errors`: why, as JSON.
        """
        failed = {"status": "failed", "ended_at": now, "reason": "", "errors": errors}
        ending = {"status": "cancelling", "cancelling_at": now, "errors": errors}
        this = update(batches).where(batches.c.id == batch, batches.c.status.in_(OPEN))
        async with self._writing() as connection:
            await connection.execute(this.where(batches.c.in_progress_at.is_(None)).values(failed))
            await connection.execute(this.values(ending))
            await connection.execute(_NEVER_BEGUN, {"of": batch})

    async def trim(self, before: float) -> int:
        """Forget batches that ended before a Unix time, with all that is theirs; how many."""
        old = select(batches.c.id).where(batches.c.ended_at < before).limit(10)
        found = [row[0] for row in await self._store.rows(old)]
        for batch in found:
            while await self._fewer_lines(batch):
                pass
            async with self._writing() as connection:
                for table in (batch_parts, batch_files):
                    await connection.execute(delete(table).where(table.c.batch == batch))
                await connection.execute(delete(batches).where(batches.c.id == batch))
        return len(found)

    async def _fewer_lines(self, batch: str) -> int:
        """Forget some lines: all at once would keep others from writing for seconds."""
        async with self._writing() as connection:
            gone = await connection.execute(_SOME_GONE, {"of": batch})
            return int(gone.rowcount)


def _equal(number: int, of: LineResult) -> LineResult:
    """The result of a line that asks the same: it is shared, and what it cost is saved."""
    way = "equal" if of.way else ""
    return LineResult(number, way, of.status, of.answer, saved=of.nanos + of.saved)


def _finished(batch: str, result: LineResult) -> dict[str, Any]:
    return {
        "of": batch,
        "at": result.number,
        "new_way": result.way,
        "new_status": result.status,
        "new_answer": result.answer,
        "new_nanos": result.nanos,
        "new_saved": result.saved,
    }


def _counted(batch: str, written: Sequence[LineResult]) -> Any:
    """The batch's counts and sums with these lines."""
    more: dict[str, int] = {}
    for each in written:
        failed = each.status >= FIRST_ERROR
        added = {
            "failed" if failed else "completed": 1,
            "prompt_tokens": each.prompt_tokens,
            "completion_tokens": each.completion_tokens,
            "nanos": each.nanos,
            "saved": each.saved,
        }
        if each.way:
            added[_COUNTED[each.way]] = 1
        for name, amount in added.items():
            more[name] = more.get(name, 0) + amount
    values = {name: batches.c[name] + amount for name, amount in more.items()}
    return update(batches).where(batches.c.id == batch).values(**values)
