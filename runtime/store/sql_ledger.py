"""The ledger in the database of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Double, Text, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from seedbed.runtime.store.ledger import (
    Account,
    Cost,
    Dimension,
    Draw,
    Drawn,
    LedgerEntry,
    Turn,
    day_of,
)
from seedbed.runtime.store.schema import accounts, advances, columns_of, ledger
from seedbed.runtime.store.spending import Folding, spending
from seedbed.runtime.store.sql import SqlStore

# The rows are locked in one order everywhere, so that gateways never wait for each other in a circle.
_LOCK = (
    select(accounts.c.account, accounts.c.spent)
    .where(accounts.c.account.in_(bindparam("names", expanding=True)))
    .order_by(accounts.c.account)
    .with_for_update()
)
_HELD = select(func.coalesce(func.sum(advances.c.amount), 0)).where(
    advances.c.account == bindparam("of"),
    advances.c.holder != bindparam("by"),
    advances.c.until > bindparam("now"),
)
_SPEND = (
    update(accounts)
    .where(accounts.c.account == bindparam("of"))
    .values(spent=accounts.c.spent + bindparam("cost"))
)
_REFUSED = (
    update(accounts)
    .where(accounts.c.account == bindparam("of"), accounts.c.refused_under < bindparam("ceiling"))
    .values(refused_under=bindparam("ceiling"))
)
# An advance that has ended may be others' by now, and is not brought back by telling it.
_KEEP = (
    update(advances)
    .where(
        advances.c.account == bindparam("of"),
        advances.c.holder == bindparam("by"),
        advances.c.until > bindparam("now"),
    )
    .values(amount=bindparam("left"), until=bindparam("till"))
)
# A turn that draws nothing, on PostgreSQL: one statement, so one way there and back and one commit.
# Where an account is not there yet it does nothing and says so. The entries' first insert wins, and
# only it takes the costs.
_AT_ONCE = text(
    """
    WITH locked AS MATERIALIZED (
        SELECT account FROM accounts WHERE account = ANY(:names) ORDER BY account FOR UPDATE
    ), known AS (
        SELECT count(*) = cardinality(:names) AS complete FROM locked
    ), added AS (
        INSERT INTO ledger (id, at, day, namespace, workflow, agent, run, "user", model,
                            prompt_tokens, completion_tokens, nanos, estimated, prices)
        SELECT * FROM unnest(:id, :at, :day, :namespace, :workflow, :agent, :run, :user, :model,
                             :prompt_tokens, :completion_tokens, :nanos, :estimated, :prices)
        WHERE (SELECT complete FROM known)
        ON CONFLICT (id) DO NOTHING
        RETURNING id
    ), taken AS (
        UPDATE accounts SET spent = spent + told.cost
        FROM unnest(:names, :costs) AS told (name, cost)
        WHERE account = told.name AND (SELECT complete FROM known) AND EXISTS (SELECT FROM added)
    ), kept AS (
        UPDATE advances SET amount = told.held, until = :until
        FROM unnest(:holding, :held) AS told (name, held)
        WHERE account = told.name AND holder = :holder AND advances.until > :now
            AND (SELECT complete FROM known)
    )
    SELECT complete FROM known
    """
).bindparams(
    *(bindparam(column.name, type_=ARRAY(column.type)) for column in ledger.columns),
    *(bindparam(name, type_=ARRAY(Text())) for name in ("names", "holding")),
    *(bindparam(name, type_=ARRAY(BigInteger())) for name in ("costs", "held")),
    bindparam("until", type_=Double()),
    bindparam("now", type_=Double()),
    bindparam("holder", type_=Text()),
)
_KNOWN = select(ledger.c.id).where(ledger.c.id == bindparam("of"))
_STAND = select(accounts).where(accounts.c.account.in_(bindparam("names", expanding=True)))


class SqlLedger:
    """The ledger beside the runs of a SqlStore; see `Ledger` for what each method promises."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._add = store.insert(ledger)
        self._open = store.insert(accounts).on_conflict_do_nothing(index_elements=["account"])
        hold = store.insert(advances)
        self._hold = hold.on_conflict_do_update(
            index_elements=["account", "holder"],
            set_={"amount": hold.excluded.amount, "until": hold.excluded.until},
        )
        self._folding = Folding(store)

    async def take(self, turn: Turn) -> list[Drawn]:
        """See `Ledger`."""
        plain = self._store.dialect == "postgresql" and not (turn.draws or turn.refusals)
        if plain and await self._take_at_once(turn):
            return []
        return await self._take(turn)

    async def _take_at_once(self, turn: Turn) -> bool:
        """Do a turn that draws nothing; False where it was not done, for want of an account."""
        rows = [_row(entry) for entry in turn.entries]
        columns = {each.name: [row[each.name] for row in rows] for each in ledger.columns}
        found = await self._store.rows(
            _AT_ONCE,
            **columns,
            names=[*turn.costs],
            costs=[*turn.costs.values()],
            holding=[*turn.holding],
            held=[*turn.holding.values()],
            holder=turn.holder,
            now=turn.now,
            until=turn.until,
        )
        return bool(found[0][0])

    async def _take(self, turn: Turn) -> list[Drawn]:
        async with self._store.transaction() as connection:
            return await self.take_within(connection, turn)

    async def take_within(self, connection: AsyncConnection, turn: Turn) -> list[Drawn]:
        """`take` as a part of somebody's transaction, so that what was paid for is written with it."""
        names = {*turn.costs, *turn.refusals, *(draw.account for draw in turn.draws)}
        spent = await self._locked(connection, sorted(names))
        if not await self._is_known(connection, turn):
            await self._write(connection, turn)
            for name, cost in turn.costs.items():
                spent[name] += cost
        refusals = [{"of": name, "ceiling": of} for name, of in turn.refusals.items()]
        if refusals:
            await connection.execute(_REFUSED, refusals)
        drawn, holding = [], dict(turn.holding)
        for draw in turn.draws:
            name = draw.account
            mine = holding.get(name, 0)
            found = await self._drawn(connection, turn, draw, spent[name] + mine)
            holding[name] = mine + found.granted
            drawn.append(Drawn(found.granted, spent[name]))
        await self._hold_all(connection, turn, holding)
        return drawn

    async def tidy(self, before: float) -> None:
        """See `Ledger`."""
        async with self._store.transaction() as connection:
            await connection.execute(delete(advances).where(advances.c.until < before))

    async def forget_holder(self, connection: AsyncConnection, holder: str) -> None:
        """A holder is gone for good: what it held is free, and nothing of it is kept."""
        await connection.execute(delete(advances).where(advances.c.holder == holder))

    async def _hold_all(
        self, connection: AsyncConnection, turn: Turn, holding: Mapping[str, int]
    ) -> None:
        """Note what the gateway holds. Only drawing brings an advance into being."""
        drawn = {draw.account for draw in turn.draws}
        rows = [
            {"account": name, "holder": turn.holder, "amount": holding[name], "until": turn.until}
            for name in drawn
        ]
        if rows:
            await connection.execute(self._hold, rows)
        kept = [
            {"of": name, "by": turn.holder, "now": turn.now, "left": amount, "till": turn.until}
            for name, amount in holding.items()
            if name not in drawn
        ]
        if kept:
            await connection.execute(_KEEP, kept)

    async def _locked(self, connection: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
        """What the accounts have spent; nobody else changes them until the turn is over."""
        if not names:
            return {}
        found = await self._spent(connection, names)
        if missing := [name for name in names if name not in found]:
            rows = [{"account": name, "spent": 0, "refused_under": 0} for name in missing]
            await connection.execute(self._open, rows)
            found = await self._spent(connection, names)
        return found

    async def _spent(self, connection: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
        rows = await connection.execute(_LOCK, {"names": names})
        return {name: int(spent) for name, spent in rows}

    async def _is_known(self, connection: AsyncConnection, turn: Turn) -> bool:
        """Whether the turn's entries were written before; they are written all or none."""
        if not turn.entries:
            return False
        known = await connection.execute(_KNOWN, {"of": turn.entries[0].id})
        return known.scalar_one_or_none() is not None

    async def _write(self, connection: AsyncConnection, turn: Turn) -> None:
        if turn.entries:
            await connection.execute(self._add, [_row(entry) for entry in turn.entries])
        costs = [{"of": name, "cost": cost} for name, cost in turn.costs.items()]
        if costs:
            await connection.execute(_SPEND, costs)

    async def _drawn(self, connection: AsyncConnection, turn: Turn, draw: Draw, gone: int) -> Drawn:
        """What can be granted where so much is spent or held by the drawer."""
        values = {"of": draw.account, "by": turn.holder, "now": turn.now}
        others = int((await connection.execute(_HELD, values)).scalar_one())
        free = draw.ceiling - gone - others
        if draw.need > free:
            return Drawn(0, gone)
        # Others draw from the same account: nobody takes more than a share of what is left.
        return Drawn(max(draw.need, min(draw.want, free // 4)), gone)

    async def accounts(self, names: Sequence[str]) -> Mapping[str, Account]:
        """See `Ledger`."""
        rows = await self._store.rows(_STAND, names=list(names))
        return {name: Account(spent, refused_under) for name, spent, refused_under in rows}

    async def costs(
        self,
        by: Dimension,
        *,
        namespace: str = "",
        workflow: str = "",
        agent: str = "",
        since: float = 0,
    ) -> list[Cost]:
        """See `Ledger`."""
        wanted = {"namespace": namespace, "workflow": workflow, "agent": agent}
        given = {name: value for name, value in wanted.items() if value}
        day = day_of(since) if since > 0 else ""
        rows = await self._store.rows(spending(by, tuple(given)), since=since, day=day, **given)
        return [Cost(str(key), *map(int, numbers)) for key, *numbers in rows]

    async def fold(self, before: float, most: int) -> int:
        """See `Ledger`."""
        return await self._folding.some(before, most)


def _row(entry: LedgerEntry) -> dict[str, Any]:
    return columns_of(entry) | {"day": day_of(entry.at)}
