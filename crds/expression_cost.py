"""How much an expression can cost at most: told from its text and the size of what it reads. Pure.

An upper bound, never an estimate: what it calls cheap is cheap whatever the values are. It is coarse, so
most of what it does not call cheap is harmless too; that is evaluated where it can be stopped.

Work is counted in bytes that are touched, and a value's size in bytes of JSON. An expression without
macros and without functions that make more than they get touches each thing that it names, as often as
it combines them. A macro does its body once for each item; `map` makes a list of as many results. Each
`Stage` of the text is taken as if it worked on the result of all stages before it, whether that is so
or not: that can only tell too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from seedbed.crds.tokens import MACROS, Token

LONGEST = 16 * 1024
"""Characters of one expression."""
MOST_TOKENS = 2_000
"""Tokens of one expression: the CEL library goes as deep into its stack as there are operators in a row."""
CHEAP_BYTES = 32 * 1024
"""Bytes that an expression may read or spell and still be cheap: some milliseconds of the CEL library."""
CHEAP_WORK = 4_000_000
"""Bytes that an expression may touch and still be cheap."""

_DIGITS = 9
_SOME_TIMES = 8
_QUOTES = 2


class Stage(Enum):
    """What a macro or a function does to the size of what there is."""

    EACH = "goes through the items and makes nothing larger"
    LIST = "makes a list of as many results as there are items"
    ITEMS = "makes many items of one text"
    PAIRS = "compares each item with each other"
    JOINED = "puts a text between items"
    REPLACED = "puts a text in many places of another"
    LONGER = "writes a text so that it is some times longer"
    UNBOUNDED = "the values do not tell"


_MACROS = (Stage.EACH, Stage.LIST)
_MACRO_STAGES = {name: Stage.LIST if name == "map" else Stage.EACH for name in MACROS}
# All others are unbounded: `range` by a value, too, and whatever the library learns.
_FUNCTION_STAGES = {
    **dict.fromkeys(("split", "parseJson"), Stage.ITEMS),
    "distinct": Stage.PAIRS,
    "join": Stage.JOINED,
    "replace": Stage.REPLACED,
    **dict.fromkeys(("toJson", "quote"), Stage.LONGER),
}
_LINEAR = frozenset(
    {
        *("has", "size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string"),
        *("bytes", "timestamp", "duration", "dyn", "type", "bool", "abs", "first", "last", "sum"),
        *("min", "max", "charAt", "indexOf", "lastIndexOf", "substring", "slice", "reverse"),
        *("lowerAscii", "upperAscii", "trim", "flatten", "sort", "flag", "greatest", "least"),
        *("ceil", "floor", "round", "trunc", "sign", "sqrt", "isNaN", "isInf", "isFinite"),
        *("bitOr", "bitAnd", "bitXor", "bitNot", "bitShiftLeft", "bitShiftRight"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
"""Functions whose time and result grow no faster than what they are given."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What the text of an expression tells.

    Attributes:
        size: characters of it, and of the ranges that it spells.
        items: items that its literals and those ranges may have.
        names: how many values it names or writes.
        stages: its macros and functions that do more than to look, inner ones first, each with the
            number of macros around it.
    """

    size: int
    items: int
    names: int
    stages: tuple[tuple[int, Stage], ...]

    def is_cheap(self, read: bytes) -> bool:
        """Whether it is cheap on what it reads, as JSON."""
        if len(read) + self.size > CHEAP_BYTES:
            return False
        if not self.stages:
            return self.names * self.names * (len(read) + self.size) <= CHEAP_WORK
        items = 1 + read.count(b",") + read.count(b"[") + read.count(b"{")
        return self.most(len(read), items) <= CHEAP_WORK

    def most(self, size: int, items: int) -> float:
        """Bytes that it touches at most.

        Args:
            size: bytes of what it reads.
            items: items that the lists and objects have which it reads, all together.
        """
        size, items = size + self.size, items + self.items
        once = self.names * self.names
        # By how many macros there are around it: the work of what stands at that level.
        works = [float(once * size)] + [0.0] * len(self.stages)
        for level, stage in self.stages:
            if stage is Stage.UNBOUNDED or works[level] > CHEAP_WORK:
                return math.inf
            if stage in (Stage.EACH, Stage.LIST):
                within, works[level + 1] = works[level + 1], 0.0
                works[level] += items * (within + once * size)
            elif stage is Stage.PAIRS:
                works[level] += items * size
            size, items = self._grown(stage, size, items)
            works[level] += once * size
        return sum(works)

    def _grown(self, stage: Stage, size: int, items: int) -> tuple[int, int]:
        """Size and items of what a stage makes."""
        match stage:
            case Stage.LIST:
                return items * self.names * size, items * self.names * items
            case Stage.ITEMS:
                return 4 * size, size
            case Stage.JOINED:
                return size * items, items
            case Stage.REPLACED:
                return size * size, items
            case Stage.LONGER:
                return _SOME_TIMES * size, items
        return size, items


def cost_of(text: str, found: Sequence[Token]) -> Cost:
    """What an expression's text tells of its cost; `found` are its tokens."""
    stages: list[tuple[int, Stage]] = []
    open_calls: list[Stage | None] = []
    names = items = level = 0
    size = len(text)
    for at, token in enumerate(found):
        following = found[at + 1].text if at + 1 < len(found) else ""
        if token.text == "(":
            counted = _counted(found, at)
            items += counted
            size += counted * len(str(counted))
            open_calls.append(None if counted else _stage(found, at))
            level += open_calls[-1] in _MACROS
        elif token.text == ")" and open_calls:
            stage = open_calls.pop()
            level -= stage in _MACROS
            stages += [] if stage is None else [(level, stage)]
        elif token.kind in ("string", "number"):
            names += 1
        elif token.kind == "name":
            names += following != "(" and found[at - 1].text != "."
        elif token.text in (",", "[", "{"):
            items += 1
    return Cost(size, items, max(1, names), tuple(stages))


def _counted(found: Sequence[Token], at: int) -> int:
    """Items of a range whose end stands there, which is a list like one that is written out; else 0."""
    if at + 2 >= len(found) or not at or found[at - 1].text != "range":
        return 0
    end = found[at + 1].text
    stands_there = end.isdecimal() and len(end) <= _DIGITS and found[at + 2].text == ")"
    return int(end) if stands_there else 0


def _stage(found: Sequence[Token], at: int) -> Stage | None:
    """What a parenthesis opens."""
    if not at or found[at - 1].kind != "name":
        return None
    name = found[at - 1].text
    member = at > 1 and found[at - 2].text == "."
    if member and name in _MACRO_STAGES:
        return _MACRO_STAGES[name]
    if name == "matches":
        return None if _is_plain_pattern(found, at) else Stage.UNBOUNDED
    if name in _LINEAR:
        return None
    if name in ("join", "replace") and _has_short_texts(found, at):
        return Stage.LONGER
    return _FUNCTION_STAGES.get(name, Stage.UNBOUNDED)


def _is_plain_pattern(found: Sequence[Token], at: int) -> bool:
    """Whether a pattern stands there that is no more than its text: nothing is repeated by count."""
    inside = found[at + 1 : at + 3]
    ends = len(inside) > 1 and inside[1].text == ")"
    return ends and inside[0].kind == "string" and "{" not in inside[0].text


def _has_short_texts(found: Sequence[Token], at: int) -> bool:
    """Whether all that is put into a text stands there and is short, and nothing is put everywhere."""
    given = found[at + 1 : at + 4]
    texts = given[:1] if len(given) > 1 and given[1].text == ")" else given[::2]
    return all(
        token.kind == "string" and _QUOTES < len(token.text) <= _QUOTES + _SOME_TIMES
        for token in texts
    )
