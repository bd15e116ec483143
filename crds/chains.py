"""Chains of `map` and `filter` over a list that is only a path, a few items at a time. Pure.

`steps.read.output.filter(i, i.ok).map(i, i.name)` gives the same whether its items go through together
or in pieces, since no item sees another. The CEL engine copies what it has made with each further item,
so small pieces take a tenth of the time; and of the values around the list it is given nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seedbed.crds.cel_runtime import cel
from seedbed.crds.comprehensions import check_count, makes_a_list
from seedbed.crds.paths import Path, path_of
from seedbed.crds.tokens import Token, names

PIECE = "_piece"
_SIZE = 8
"""Items of a piece: fewer, and most of the time goes into beginning; more, and it goes into copying."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What an expression does to each item of a list.

    Attributes:
        source: where the list stands.
        program: the chain over the variable `PIECE`.
        links: how many `map` and `filter` it has.
    """

    source: Path
    program: cel.Program
    links: int

    def pieces(self, read: Mapping[str, Any]) -> Iterator[list[Any]] | None:
        """The list in pieces; None where there is none, or it is short.

        Raises:
            ValueError: it is too long.
        """
        try:
            items = self.source.follow(read[self.source.root], read.get("index", 0))
        except LookupError:
            return None
        if not isinstance(items, list) or len(items) <= _SIZE:
            return None
        check_count(len(items) * self.links)
        return (items[at : at + _SIZE] for at in range(0, len(items), _SIZE))


def chain_of(
    text: str, found: list[Token], roots: frozenset[str], namespaces: frozenset[str]
) -> Chain | None:
    """The chain that an expression is; None where it is anything else, or reads more than its items.

    Args:
        text: the expression, which CEL has compiled.
        found: its tokens.
        roots: what it may begin with.
        namespaces: first parts of dotted function names, such as `math`.
    """
    first = next((at - 2 for at in range(len(found)) if makes_a_list(found, at)), 0)
    source = path_of(found[:first], roots)
    links = _links(found, first)
    if source is None or not links:
        return None
    named = names(found[first:], namespaces)
    if named.variables or named.flags:
        return None
    return Chain(source, cel.compile(f"{PIECE}{text[found[first].start :]}"), links)


def _links(found: list[Token], at: int) -> int:
    """How many macros stand in a row from here to the end; 0 where there is more, or one in another."""
    links = 0
    while at < len(found):
        if found[at].text != "." or not makes_a_list(found, at + 2):
            return 0
        links += 1
        at += 3
        depth = 1
        while depth:
            if makes_a_list(found, at):
                return 0
            depth += {"(": 1, ")": -1}.get(found[at].text, 0)
            at += 1
    return links
