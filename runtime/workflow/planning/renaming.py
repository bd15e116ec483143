"""Has expressions and templates read other steps than they were written for; their meaning stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from seedbed.crds.cel_runtime import cel
from seedbed.crds.tokens import Token, closing_brace, tokens

_OPENING = re.compile(r"\$?\$\{")
_PLAIN = re.compile(r"[A-Za-z_]\w*")

Names = Mapping[str, str]
"""New names of steps by their old ones; steps that are not in it keep theirs."""


def in_expression(text: str, names: Names) -> str:
    """A CEL expression, reading the steps by their new names."""
    found = [*tokens(text), *[Token("end", "", len(text))] * 3]
    parts: list[str] = []
    done = 0
    for at, token in enumerate(found):
        if token.kind != "name" or token.text != "steps" or (at and found[at - 1].text == "."):
            continue
        sign, named = found[at + 1], found[at + 2]
        if sign.text == ".":
            old, end = named.text, named.end
        else:
            old, end = str(cel.evaluate(named.text)), found[at + 3].end
        if old in names:
            parts += [text[done : token.end], _read(names[old])]
            done = end
    return "".join((*parts, text[done:]))


def in_template(value: Any, names: Names) -> Any:
    """A JSON value whose strings hold `${ CEL }`, reading the steps by their new names."""
    if isinstance(value, str):
        return _in_text(value, names)
    if isinstance(value, dict):
        return {key: in_template(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(in_template(item, names) for item in value)
    return value


def _in_text(text: str, names: Names) -> str:
    parts: list[str] = []
    at = 0
    while opening := _OPENING.search(text, at):
        end = closing_brace(text, opening.end())
        if opening.group() == "$${" or end is None:
            parts.append(text[at : opening.end()])
            at = opening.end()
            continue
        parts += [text[at : opening.end()], in_expression(text[opening.end() : end], names)]
        at = end
    return "".join((*parts, text[at:]))


def _read(name: str) -> str:
    return f".{name}" if _PLAIN.fullmatch(name) else f"['{name}']"
