"""Reads CEL text far enough to know what it names: variables, functions, steps and flags.

The library parses and evaluates; what it tells of a program's references loses which fields of a
variable are read. A scan over tokens is enough for that, since CEL has no statements and its macros
are the only places that bind a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from seedbed.crds.cel_runtime import cel

MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<string>
          [rR][bB]?(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"\n]*"|'[^'\n]*')
        | [bB]?(?:\"\"\"(?:\\[\s\S]|[^\\])*?\"\"\"|'''(?:\\[\s\S]|[^\\])*?'''
                 |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    | (?P<name>[A-Za-z_]\w*)
    | (?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[uU]?)
    | (?P<sign>[\s\S])
    """,
    re.VERBOSE,
)
_LITERALS = frozenset({"true", "false", "null", "in"})


class ExpressionError(Exception):
    """What is wrong with an expression, as the end of a sentence; the caller knows the field."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of CEL: `kind` is string, name, number or sign; `start` counts characters from 0."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Where the next character stands."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Names:
    """What an expression refers to; names bound by macros left out, macros left out.

    Attributes:
        params: the parameters that it reads; None where it may read any.
    """

    variables: frozenset[str]
    functions: frozenset[str]
    steps: frozenset[str]
    flags: frozenset[str]
    bound: frozenset[str]
    params: frozenset[str] | None = frozenset()


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """The tokens from `start` on, without white space and comments. Any text has tokens."""
    for match in _TOKEN.finditer(text, start):
        kind = match.lastgroup or "sign"
        if kind != "space":
            yield Token(kind, match.group(), match.start())


def closing_brace(text: str, start: int) -> int | None:
    """Where the `}` stands that closes the brace opened just before `start`; None where none does."""
    depth = 0
    for token in tokens(text, start):
        if token.text == "{":
            depth += 1
        elif token.text == "}":
            if depth == 0:
                return token.start
            depth -= 1
    return None


def names(found: list[Token], namespaces: frozenset[str]) -> Names:
    """What an expression refers to.

    Args:
        found: the tokens of a text that the library has parsed.
        namespaces: first parts of dotted function names, such as `math`.

    Raises:
        ExpressionError: where a step or a flag is not named by a literal, or with a bare hyphen.
    """
    return _Scan(found, namespaces).names()


class _Scan:
    """One pass over the tokens of one expression."""

    def __init__(self, found: list[Token], namespaces: frozenset[str]) -> None:
        # Three signs at the end let every look ahead stand without a check.
        self._tokens = [*found, *[Token("end", "", 0)] * 3]
        self._count = len(found)
        self._namespaces = namespaces
        self._variables: set[str] = set()
        self._functions: set[str] = set()
        self._steps: set[str] = set()
        self._flags: set[str] = set()
        self._bound: set[str] = set()
        self._params: set[str] | None = set()

    def names(self) -> Names:
        for at in range(self._count):
            if self._tokens[at].kind == "name":
                self._name(at)
        return Names(
            frozenset(self._variables - self._bound),
            frozenset(self._functions),
            frozenset(self._steps),
            frozenset(self._flags),
            frozenset(self._bound),
            None if self._params is None else frozenset(self._params),
        )

    def _name(self, at: int) -> None:
        name, following = self._tokens[at].text, self._tokens[at + 1].text
        member = at > 0 and self._tokens[at - 1].text == "."
        if following == "(":
            self._call(at, name, member=member)
        elif not (member or name in _LITERALS or (name in self._namespaces and following == ".")):
            self._variables.add(name)
            if name == "steps":
                self._step(at)
            elif name == "params":
                self._param(at)

    def _call(self, at: int, name: str, *, member: bool) -> None:
        if member and name in MACROS:
            bound = self._tokens[at + 2]
            if bound.kind == "name" and self._tokens[at + 3].text == ",":
                self._bound.add(bound.text)
            return
        namespace = self._tokens[at - 2].text if member and at > 1 else ""
        if namespace in self._namespaces and self._tokens[at - 2].kind == "name":
            self._functions.add(f"{namespace}.{name}")
            return
        self._functions.add(name)
        if name == "flag" and not member:
            argument = self._tokens[at + 2]
            if argument.kind != "string" or self._tokens[at + 3].text not in {",", ")"}:
                raise ExpressionError("flag() takes the flag's name as a literal: flag('name')")
            self._flags.add(str(cel.evaluate(argument.text)))

    def _param(self, at: int) -> None:
        sign, named = self._tokens[at + 1], self._tokens[at + 2]
        if self._params is None or sign.text != "." or self._tokens[at + 3].text == "(":
            self._params = None
        else:
            self._params.add(named.text)

    def _step(self, at: int) -> None:
        sign, named = self._tokens[at + 1], self._tokens[at + 2]
        if sign.text == "." and named.kind == "name" and self._tokens[at + 3].text != "(":
            hyphen = self._tokens[at + 3]
            if hyphen.text == "-" and hyphen.start == named.end:
                raise ExpressionError(
                    f"a step whose name has a hyphen is written steps['{self._hyphened(at + 2)}']"
                )
            self._steps.add(named.text)
        elif (
            sign.text == "["
            and named.kind == "string"
            and (at + 3 < self._count and self._tokens[at + 3].text == "]")
        ):
            self._steps.add(str(cel.evaluate(named.text)))
        else:
            raise ExpressionError(
                "steps are read one by one, with a literal name: steps.NAME or steps['NAME']"
            )

    def _hyphened(self, at: int) -> str:
        """The name that the user meant: all that follows without a gap."""
        parts = [self._tokens[at].text]
        for before, token in zip(self._tokens[at:], self._tokens[at + 1 :], strict=False):
            if token.start != before.end or (token.text != "-" and token.kind not in _IN_NAMES):
                break
            parts.append(token.text)
        return "".join(parts)


_IN_NAMES = frozenset({"name", "number"})
