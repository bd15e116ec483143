"""CEL written in Python: expressions that plans built in Python hand on. Pure text, never evaluated.

    item.size > 3                      item.size > 3
    a.output["rows"].size() > 0        size(steps.a.output.rows) > 0
    (index + 1) * params.step          (index + 1) * params.step
    f"Hello {item.name}!"              Hello ${item.name}!

`&`, `|` and `~` stand for and, or and not, since Python keeps the words for itself; as everywhere in
Python they bind closer than comparisons, so these take brackets: `(a > 1) & (b < 2)`.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_PLAIN = re.compile(r"[A-Za-z_]\w*")
_WORDS = frozenset({"in", "true", "false", "null"})


class Formula:
    """A CEL expression.

    Fields of what it stands for are read with a dot, or in brackets where a method here has the name;
    as text it is a template.
    """

    __slots__ = ("_cel", "_tight")
    __hash__ = None  # type: ignore[assignment]  # `==` makes a formula, so none can be a key

    def __init__(self, cel: str, *, tight: bool = True) -> None:
        self._cel = cel
        self._tight = tight

    def __repr__(self) -> str:
        return f"Formula({self._cel!r})"

    def __str__(self) -> str:
        return f"${{{self._cel}}}"

    def __format__(self, form: str) -> str:
        if form:
            raise TypeError("a formula has no value yet that could be formatted")
        return str(self)

    def __bool__(self) -> bool:
        raise TypeError("a formula has no value yet; use &, | and ~ instead of and, or and not")

    def __iter__(self) -> Any:
        raise TypeError("a formula has no value yet; give it to for_each to repeat a step")

    def __getattr__(self, name: str) -> Formula:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: Any) -> Formula:
        if isinstance(key, str) and _PLAIN.fullmatch(key) and key not in _WORDS:
            return Formula(f"{_bracketed(self)}.{key}")
        return Formula(f"{_bracketed(self)}[{cel(key)}]")

    def __call__(self, *arguments: Any) -> Formula:
        """A method of CEL: `text.startsWith('a')`, `items.size()`."""
        return Formula(f"{self._cel}({', '.join(map(cel, arguments))})")

    def __eq__(self, other: object) -> Formula:  # type: ignore[override]  # a formula, no truth
        return _joined(self, "==", other)

    def __ne__(self, other: object) -> Formula:  # type: ignore[override]  # likewise
        return _joined(self, "!=", other)

    def __lt__(self, other: Any) -> Formula:
        return _joined(self, "<", other)

    def __le__(self, other: Any) -> Formula:
        return _joined(self, "<=", other)

    def __gt__(self, other: Any) -> Formula:
        return _joined(self, ">", other)

    def __ge__(self, other: Any) -> Formula:
        return _joined(self, ">=", other)

    def __add__(self, other: Any) -> Formula:
        return _joined(self, "+", other)

    def __radd__(self, other: Any) -> Formula:
        return _joined(other, "+", self)

    def __sub__(self, other: Any) -> Formula:
        return _joined(self, "-", other)

    def __rsub__(self, other: Any) -> Formula:
        return _joined(other, "-", self)

    def __mul__(self, other: Any) -> Formula:
        return _joined(self, "*", other)

    def __rmul__(self, other: Any) -> Formula:
        return _joined(other, "*", self)

    def __truediv__(self, other: Any) -> Formula:
        return _joined(self, "/", other)

    def __rtruediv__(self, other: Any) -> Formula:
        return _joined(other, "/", self)

    def __mod__(self, other: Any) -> Formula:
        return _joined(self, "%", other)

    def __and__(self, other: Any) -> Formula:
        return _joined(self, "&&", other)

    def __rand__(self, other: Any) -> Formula:
        return _joined(other, "&&", self)

    def __or__(self, other: Any) -> Formula:
        return _joined(self, "||", other)

    def __ror__(self, other: Any) -> Formula:
        return _joined(other, "||", self)

    def __invert__(self) -> Formula:
        return Formula(f"!{_bracketed(self)}")

    def within(self, whole: Any) -> Formula:
        """Whether it is in a list, or a key of an object."""
        return _joined(self, "in", whole)


def cel(value: Any) -> str:
    """CEL of a formula, or of a plain value as a literal."""
    if isinstance(value, Formula):
        return value._cel  # noqa: SLF001  # of this module; a public name would hide a field
    formula = getattr(value, "formula", None)
    if isinstance(formula, Formula):
        return formula._cel  # noqa: SLF001  # likewise
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(cel, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{cel(key)}: {cel(each)}" for key, each in value.items()) + "}"
    return orjson.dumps(value).decode()


def step_formula(name: str) -> Formula:
    """What a step leaves: `output`, `error` and `state`."""
    return Formula("steps")[name]


def func(name: str, *arguments: Any) -> Formula:
    """A function of CEL: `func("lists.range", 3)`."""
    return Formula(f"{name}({', '.join(map(cel, arguments))})")


def size(value: Any) -> Formula:
    """How many elements or characters a value has."""
    return func("size", value)


def flag(name: str, subject: Any = None) -> Formula:
    """Whether a FeatureFlag is on, for the run or for a subject."""
    return func("flag", name) if subject is None else func("flag", name, subject)


def either(condition: Any, this: Any, other: Any) -> Formula:
    """The one value where the condition holds, else the other."""
    parts = [_bracketed(each) for each in (condition, this, other)]
    return Formula(f"{parts[0]} ? {parts[1]} : {parts[2]}", tight=False)


item = Formula("item")
index = Formula("index")
output = Formula("output")
previous = Formula("previous")
iteration = Formula("iteration")
params = Formula("params")
run = Formula("run")


def _joined(left: Any, sign: str, right: Any) -> Formula:
    return Formula(f"{_bracketed(left)} {sign} {_bracketed(right)}", tight=False)


def _bracketed(value: Any) -> str:
    text = cel(value)
    loose = isinstance(value, Formula) and not value._tight  # noqa: SLF001  # likewise
    return f"({text})" if loose else text
