"""Templates: JSON values whose strings may hold `${ CEL }`.

A string that is one `${...}` and nothing else gives the expression's value with its type; in any
other string each `${...}` is replaced by text (strings as they are, other values as JSON). `$${`
stands for a plain `${`. Keys of objects are taken as they are.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Expression, Scope, as_text
from seedbed.crds.messages import VALUE_LIMIT
from seedbed.crds.tokens import closing_brace

_OPENING = re.compile(r"\$?\$\{")
_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*")

FEW = 16
"""Expressions of one template whose values are put together without being measured first."""

Render = Callable[[Iterator[Any]], Any]
"""Puts the values of its expressions in, which come in the order of their places."""

_NO_VALUES: Iterator[Any] = iter(())


@dataclass(frozen=True, slots=True)
class Template:
    """A JSON value with expressions in it, compiled.

    Attributes:
        steps: names of the steps its expressions read.
        flags: names of the flags they ask for.
        expressions: all of them, in order.
    """

    steps: frozenset[str]
    flags: frozenset[str]
    expressions: tuple[Expression, ...]
    _render: Render = dataclasses.field(repr=False, compare=False)

    @classmethod
    def parse(cls, value: Any, field: str) -> Template:
        """Compile every expression in a JSON value.

        Raises:
            InvalidError: naming the place below `field` of the first expression that is wrong.
        """
        expressions: list[Expression] = []
        render = _compile(value, field, expressions)
        return cls(
            frozenset().union(*(expression.steps for expression in expressions)),
            frozenset().union(*(expression.flags for expression in expressions)),
            tuple(expressions),
            render,
        )

    @property
    def per_item(self) -> bool:
        """Whether it reads `item` or `index`, and so makes sense only with forEach."""
        return any(expression.per_item for expression in self.expressions)

    def render(self, scope: Scope) -> Any:
        """The value with every expression evaluated; parts without one are shared, not copied.

        Raises:
            InvalidError: where the values do not fit an expression, or are too large together.
            Pending: as `Expression.evaluate` does.
        """
        if not self.expressions:
            return self._render(_NO_VALUES)
        if len(self.expressions) > FEW:
            return self._render(iter(self._measured(scope)))
        return self._render(iter([expression.evaluate(scope) for expression in self.expressions]))

    def _measured(self, scope: Scope) -> list[Any]:
        """The values to put in, where they have no more bytes together than a value may have.

        A short text can name a long one ten thousand times: what that makes is never made.
        """
        left = VALUE_LIMIT
        values = []
        for expression in self.expressions:
            value = expression.evaluate(scope)
            values.append(value)
            if isinstance(value, (str, list, dict)):
                left -= len(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
            if left < 0:
                raise InvalidError(
                    expression.field,
                    f"puts in more than {VALUE_LIMIT} bytes, with all that stands before it",
                )
        return values


def escape(text: str) -> str:
    """The template that renders to this very text."""
    return text.replace("${", "$${")


def below(field: str, key: str) -> str:
    """The path of a key below a field, as a user would write it."""
    return f"{field}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{field}[{key!r}]"


def _compile(value: Any, field: str, expressions: list[Expression]) -> Render:
    before = len(expressions)
    if isinstance(value, str):
        return _text(value, field, expressions)
    if isinstance(value, dict):
        members = {
            key: _compile(item, below(field, str(key)), expressions) for key, item in value.items()
        }
        if len(expressions) > before or _escaped(value):
            return lambda values: {key: render(values) for key, render in members.items()}
    elif isinstance(value, (list, tuple)):
        items = [_compile(item, f"{field}[{at}]", expressions) for at, item in enumerate(value)]
        if len(expressions) > before or _escaped(value):
            return lambda values: [render(values) for render in items]
    return _constant(value)


def _escaped(value: Any) -> bool:
    """Whether a constant value holds an escape, so that it differs from what it stands for."""
    if isinstance(value, str):
        return "$${" in value
    if isinstance(value, dict):
        return any(_escaped(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_escaped(item) for item in value)


def _constant(value: Any) -> Render:
    return lambda _values: value


def _text(text: str, field: str, expressions: list[Expression]) -> Render:
    parts = _parts(text, field)
    found = [part for part in parts if isinstance(part, Expression)]
    expressions.extend(found)
    if not found:
        return _constant("".join(str(part) for part in parts))
    if len(parts) == 1:
        return next
    return lambda values: "".join(
        part if isinstance(part, str) else as_text(next(values)) for part in parts
    )


def _parts(text: str, field: str) -> list[str | Expression]:
    pieces = _split(text)
    if pieces is None:
        raise InvalidError(field, "`${` has no closing `}`; a plain `${` is written `$${`")
    return [_expression(piece, field) if code else piece for code, piece in pieces]


@functools.lru_cache(maxsize=8192)
def _split(text: str) -> tuple[tuple[bool, str], ...] | None:
    """Text and code in order, each with whether it is code; None where code does not end.

    Kept, since the many steps of a large plan share few texts.
    """
    pieces: list[tuple[bool, str]] = []
    at = 0
    while opening := _OPENING.search(text, at):
        if opening.start() > at:
            pieces.append((False, text[at : opening.start()]))
        if opening.group() == "$${":
            pieces.append((False, "${"))
            at = opening.end()
            continue
        end = closing_brace(text, opening.end())
        if end is None:
            return None
        pieces.append((True, text[opening.end() : end]))
        at = end + 1
    if at < len(text):
        pieces.append((False, text[at:]))
    return tuple(pieces)


def _expression(text: str, field: str) -> Expression:
    try:
        return Expression.parse(text.strip(), field)
    except InvalidError as error:
        if "unknown variable" in error.expected:
            hint = f"{error.expected}; a plain `${{` is written `$${{`"
            raise InvalidError(field, hint) from None
        raise
