"""Expressions that are only a path into what they read, such as `steps.read.output.items`. Pure.

Most are. They need no CEL: what stands there is given as it is, not copied, so that a list of many
megabytes costs no more than a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seedbed.crds.cel_runtime import cel
from seedbed.crds.tokens import Token

_INDEX = "index"


@dataclass(frozen=True, slots=True)
class Path:
    """A way into values.

    Attributes:
        root: the variable that it begins with.
        parts: keys and places; None stands for the variable `index`.
    """

    root: str
    parts: tuple[str | int | None, ...]

    def follow(self, value: Any, index: int) -> Any:
        """What stands there.

        Raises:
            LookupError: nothing does, or the way leads through something that has no parts.
        """
        for part in self.parts:
            key = index if part is None else part
            has_parts = isinstance(value, Mapping if isinstance(key, str) else list)
            if not has_parts:
                raise LookupError(key)
            value = value[key]
        return value


def path_of(found: Sequence[Token], roots: frozenset[str]) -> Path | None:
    """The path that the tokens of an expression are; None where they are more."""
    if not found or found[0].text not in roots:
        return None
    parts: list[str | int | None] = []
    at = 1
    while at < len(found):
        sign, inside = found[at].text, found[at + 1 : at + 3]
        if sign == "." and inside and inside[0].kind == "name":
            parts.append(inside[0].text)
            at += 2
        elif sign == "[" and len(inside) == 2 and inside[1].text == "]":  # noqa: PLR2004 - key and bracket
            if inside[0].text == _INDEX:
                parts.append(None)
            elif inside[0].kind == "string":
                parts.append(str(cel.evaluate(inside[0].text)))
            elif inside[0].text.isdigit():
                parts.append(int(inside[0].text))
            else:
                return None
            at += 3
        else:
            return None
    return Path(found[0].text, tuple(parts))
