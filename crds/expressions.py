"""Expressions and templates: CEL that a user writes in a Workflow, compiled once, evaluated often.

An expression sees

- `params`: the Workflow's parameters;
- `steps`: what earlier steps left, as `steps.NAME` or `steps['NAME-WITH-HYPHEN']`, each with
  `output`, `error` (null, or code and message) and `state`;
- `item` and `index`: in a step with forEach, the item at hand and its place from 0;
- `previous`: in a step with ordered items, the outputs of the items that this one comes after;
- `previous` and `iteration`: in a step with repeat, the output of the iteration before and the
  number of the one at hand from 0; `output`: in repeat.until, what it gave;
- `run`: `id`, `namespace` and `workflow`;
- `flag('name')` and `flag('name', subject)`: whether a FeatureFlag is on, by default for the run.

Beside CEL's own functions (`size`, `has`, `map`, `filter`, `all`, `exists`, `exists_one`, `int`,
`double`, `string`, `contains`, `startsWith`, `endsWith`, `matches`, `timestamp`, `duration`, `type`)
there are those of `FUNCTIONS`: text (`join`, `split`, `replace`, `trim`, `lowerAscii` ...), lists
(`sort`, `distinct`, `flatten`, `slice`, `first`, `last`, `sum`, `min`, `max`, `lists.range`),
`math.*`, and `toJson` and `parseJson`. CEL mixes no types: write `double(params.count) * 0.5`.

Evaluation converts each variable that the expression names, of `steps` only the steps it names and of
`params` only those members; so its cost grows with what is read, not with the size of the run. What is
only a path is not evaluated at all, see `paths`. Where the scope says who evaluates what may cost much,
`expression_cost` tells what that is.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from msgspec import Struct, field

from seedbed.crds import comprehensions
from seedbed.crds.cel_runtime import EXTENSIONS, cel
from seedbed.crds.chains import PIECE, Chain, chain_of
from seedbed.crds.errors import InvalidError, SeedbedError
from seedbed.crds.expression_cost import LONGEST, MOST_TOKENS, Cost, cost_of
from seedbed.crds.expression_errors import reason, short, syntax
from seedbed.crds.paths import Path, path_of
from seedbed.crds.tokens import ExpressionError, Names, names, tokens

LOCAL = frozenset({"previous", "iteration", "output"})
"""What only some expressions may name: those of a step that repeats, or compensates."""

VARIABLES = frozenset({"params", "steps", "item", "index", "run"}) | LOCAL
"""What an expression may name."""

Flag = Callable[[str, str | None], bool]
"""Tells whether the flag of this name is on for this subject; None means the run itself."""

Elsewhere = Callable[["Expression", "Scope"], Any]
"""Gives the value of an expression that is more than a path, or raises Pending."""


class Pending(Exception):  # noqa: N818 - nothing is wrong
    """A value is not known yet. Who evaluates it has the run decide again once it is.

    Attributes:
        full: whether asking for other values is of no use before then.
    """

    def __init__(self, *, full: bool) -> None:
        super().__init__("not known yet")
        self.full = full


def _first(items: list[Any]) -> Any:
    return items[0] if items else None


def _last(items: list[Any]) -> Any:
    return items[-1] if items else None


def _to_json(value: Any) -> str:
    return orjson.dumps(plain(value)).decode()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: function
        for library in ("core", "strings", "math", "lists")
        for name, function in EXTENSIONS[library].items()
        if name != "contains"  # CEL's own is for text; for lists there is `in`
    },
    "lists.range": comprehensions.numbers,
    "first": _first,
    "last": _last,
    "toJson": _to_json,
    "parseJson": orjson.loads,
}
"""Functions beside CEL's own, by name."""

_NAMESPACES = frozenset(name.split(".")[0] for name in FUNCTIONS if "." in name)
_TYPES = frozenset(
    {
        *("bool", "bytes", "double", "duration", "int", "list", "map", "null_type", "string"),
        *("timestamp", "type", "uint"),
    }
)
_CEL_FUNCTIONS = frozenset(
    {
        *("has", "size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double"),
        *("string", "bytes", "timestamp", "duration", "dyn", "type", "getFullYear", "getMonth"),
        *("getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes"),
        *("getSeconds", "getMilliseconds"),
    }
)
_KNOWN_FUNCTIONS = _CEL_FUNCTIONS | frozenset(FUNCTIONS) | {"flag"}


_FAILURES = (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError)


class Scope(Struct, frozen=True):
    """What an expression is evaluated on. Values are plain JSON.

    Attributes:
        steps: by step name, a mapping with `output`, `error` and `state`; only those that the
            expression names have to be there.
        run: `id`, `namespace` and `workflow`.
        flag: answers `flag(...)`; an error it raises comes out of `evaluate` unchanged.
        elsewhere: evaluates expressions; None where each is evaluated at once, whatever it costs.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    flag: Flag | None = None
    item: Any = None
    index: int = 0
    previous: Any = None
    iteration: int = 0
    output: Any = None
    elsewhere: Elsewhere | None = None

    def at(self, index: int, item: Any) -> Scope:
        """The same scope for one item of a forEach."""
        # Each item of each forEach gets one, and `dataclasses.replace` takes four times as long.
        return Scope(
            self.params,
            self.steps,
            self.run,
            self.flag,
            item,
            index,
            self.previous,
            self.iteration,
            self.output,
            self.elsewhere,
        )


@dataclass(frozen=True, slots=True)
class _Compiled:
    program: cel.Program
    names: Names
    makes_lists: bool
    path: Path | None
    cost: Cost
    chain: Chain | None


@dataclass(frozen=True, slots=True)
class Expression:
    """A CEL expression, compiled.

    Attributes:
        text: as the user wrote it.
        field: where it stands in the object, for errors.
        steps: names of the steps it reads.
        flags: names of the flags it asks for.
        variables: which of params, steps, item, index and run it reads.
        params: the parameters it reads; None for all.
        path: what it is, where it is only a path.
        cost: what its text tells of its cost.
    """

    text: str
    field: str
    steps: frozenset[str]
    flags: frozenset[str]
    variables: frozenset[str]
    params: frozenset[str] | None = dataclasses.field(repr=False)
    path: Path | None = dataclasses.field(repr=False)
    cost: Cost = dataclasses.field(repr=False)
    _functions: frozenset[str] = dataclasses.field(repr=False)
    _makes_lists: bool = dataclasses.field(repr=False)
    _chain: Chain | None = dataclasses.field(repr=False, compare=False)
    _program: cel.Program = dataclasses.field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, field: str) -> Expression:
        """Compile.

        Raises:
            InvalidError: for text that is no CEL, or that names something unknown.
        """
        try:
            compiled = _compile(text)
        except ExpressionError as problem:
            raise InvalidError(field, str(problem)) from None
        found = compiled.names
        own = frozenset(found.functions & FUNCTIONS.keys())
        variables = found.variables & VARIABLES
        known = (found.steps, found.flags, variables, found.params, compiled.path, compiled.cost)
        how = (compiled.makes_lists, compiled.chain, compiled.program)
        return cls(text, field, *known, own, *how)

    @property
    def per_item(self) -> bool:
        """Whether it reads `item` or `index`, and so makes sense only with forEach."""
        return not self.variables.isdisjoint(("item", "index"))

    def evaluate(self, scope: Scope) -> Any:
        """The value, as plain JSON.

        Raises:
            InvalidError: where the values do not fit the expression.
            SeedbedError: whatever the scope's `flag` raises.
            Pending: the value is not known yet; only where the scope has `elsewhere`.
        """
        if self.path is not None:
            with suppress(LookupError):
                return self.path.follow(getattr(scope, self.path.root), scope.index)
        return self.compute(scope) if scope.elsewhere is None else scope.elsewhere(self, scope)

    def compute(self, scope: Scope, read: dict[str, Any] | None = None) -> Any:
        """The value, computed here and now, whatever that costs; else as `evaluate`.

        Args:
            scope: the scope.
            read: what `reads` gives of it, where that is known.
        """
        failed: list[Exception] = []
        functions = self._bind_functions(scope, failed)
        try:
            value = plain(self._execute(self.reads(scope) if read is None else read, functions))
        except _FAILURES as error:
            failed.append(error)
            value = None
        if not failed:
            return value
        if isinstance(failed[0], (SeedbedError, MemoryError)):
            raise failed[0]
        raise InvalidError(
            self.field, f"cannot evaluate `{short(self.text)}`: {reason(failed[0])}"
        ) from failed[0]

    def _execute(self, read: dict[str, Any], functions: dict[str, Callable[..., Any]]) -> Any:
        chain = self._chain
        pieces = chain.pieces(read) if chain is not None else None
        if chain is None or pieces is None:
            return self._program.execute(cel.Context(read, functions))
        made: list[Any] = []
        for piece in pieces:
            made += chain.program.execute(cel.Context({PIECE: piece}, functions))
        return made

    def holds(self, scope: Scope) -> bool:
        """The value of a condition.

        Raises:
            InvalidError: where it is neither true nor false; else as `evaluate`.
        """
        value = self.evaluate(scope)
        if not isinstance(value, bool):
            raise InvalidError(self.field, "must give true or false")
        return value

    def reads(self, scope: Scope) -> dict[str, Any]:
        """What it reads of a scope, by the names of `Scope`."""
        read: dict[str, Any] = {}
        for name in self.variables:
            if name == "steps":
                known = scope.steps
                read[name] = {step: known[step] for step in self.steps if step in known}
            elif name == "params" and self.params is not None:
                given = scope.params
                read[name] = {each: given[each] for each in self.params if each in given}
            else:
                read[name] = getattr(scope, name)
        return read

    def _bind_functions(
        self, scope: Scope, failed: list[Exception]
    ) -> dict[str, Callable[..., Any]]:
        functions = {name: _noting(FUNCTIONS[name], failed) for name in self._functions}
        if self._makes_lists:
            for name, function in comprehensions.functions().items():
                functions[name] = _noting(function, failed)
        if self.flags:
            functions["flag"] = _noting(functools.partial(_ask, scope.flag), failed)
        return functions


def _ask(flag: Flag | None, name: str, subject: Any = None) -> bool:
    return flag is not None and flag(name, None if subject is None else as_text(subject))


def _noting(function: Callable[..., Any], failed: list[Exception]) -> Callable[..., Any]:
    """The function, with its errors noted: the library would print them and keep only their text."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (SeedbedError, MemoryError, *_FAILURES) as error:
            failed.append(error)
            return None

    return call


def plain(value: Any) -> Any:
    """A CEL value as JSON: times and durations become text, bytes text, keys text.

    Raises:
        ValueError: for numbers that JSON cannot write (NaN and infinities) and bytes that are no text.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"the result holds {value}, which JSON cannot write")
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {as_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, cel.OptionalValue):
        return plain(value.value()) if value.has_value() else None
    return str(value)


def as_text(value: Any) -> str:
    """A JSON value inside text: a string as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@functools.lru_cache(maxsize=8192)
def _compile(text: str) -> _Compiled:
    if len(text) > LONGEST:
        raise ExpressionError(f"has {len(text):,} characters, at most {LONGEST:,} are possible")
    pieces = [*tokens(text)]
    if len(pieces) > MOST_TOKENS:
        raise ExpressionError(
            f"`{short(text)}` has {len(pieces):,} names, numbers and signs, at most "
            f"{MOST_TOKENS:,} are possible"
        )
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise ExpressionError(syntax(text, str(error))) from error
    found = names(pieces, _NAMESPACES)
    _check_names(found)
    parted = comprehensions.in_parts(text)
    if parted != text:
        try:
            program = cel.compile(parted)
        except ValueError as error:
            raise ExpressionError(f"`{short(text)}` has too many macros within macros") from error
    path, cost = path_of(pieces, VARIABLES), cost_of(text, pieces)
    chain = chain_of(text, pieces, VARIABLES, _NAMESPACES)
    return _Compiled(program, found, parted != text, path, cost, chain)


def _check_names(found: Names) -> None:
    for name in sorted(found.bound & (VARIABLES | _NAMESPACES)):
        raise ExpressionError(
            f"`{name}` has a meaning already: name the macro's variable otherwise"
        )
    for name in sorted(found.variables - VARIABLES - _TYPES):
        raise ExpressionError(
            f"unknown variable `{name}`{suggestion(name, VARIABLES)}; there are "
            f"{', '.join(sorted(VARIABLES))}"
        )
    for name in sorted(found.functions - _KNOWN_FUNCTIONS):
        raise ExpressionError(f"unknown function `{name}()`{suggestion(name, _KNOWN_FUNCTIONS)}")


def suggestion(name: str, known: frozenset[str] | Mapping[str, Any]) -> str:
    """`; did you mean X?` where a known name is near, else nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
