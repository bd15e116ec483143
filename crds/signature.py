"""Signatures of Agents: `name: type, ... -> name: type, ...`, read once when the Agent is defined.

signature = inputs "->" outputs          inputs, outputs: one field or more, by commas
field     = name [":" type]              without a type it is str
type      = "str" | "int" | "float" | "bool" | "dict"
          | "list" "[" type "]" | "Literal" "[" text {"," text} "]"
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seedbed.crds.errors import InvalidError

REASONING = "reasoning"
"""The output that ChainOfThought adds."""
MAX_FIELDS = 64
MAX_NESTING = 8
MAX_NAME = 128

_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "dict": (dict,),
}
_TOKEN = re.compile(
    r"\s*(?:(?P<arrow>->)|(?P<name>[A-Za-z_]\w*)|(?P<text>'[^'\n]*'|\"[^\"\n]*\")|(?P<sign>\S)|(?P<end>$))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class FieldType:
    """The type of a field.

    Attributes:
        name: str, int, float, bool, dict, list or Literal.
        item: of a list, the type of its items.
        choices: of a Literal, its texts.
    """

    name: str
    item: FieldType | None = None
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.item is not None:
            return f"list[{self.item}]"
        if self.choices:
            return f"Literal[{', '.join(_quoted(choice) for choice in self.choices)}]"
        return self.name

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value is of this type. A whole number is a float, a bool is no number."""
        if self.item is not None:
            return isinstance(value, list) and all(self.item.accepts(item) for item in value)
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if isinstance(value, bool):
            return self.name == "bool"
        return isinstance(value, _SCALARS[self.name])


@dataclass(frozen=True, slots=True)
class SignatureField:
    """One input or output."""

    name: str
    type: FieldType

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of an Agent, in the order they were written."""

    inputs: tuple[SignatureField, ...]
    outputs: tuple[SignatureField, ...]

    def __str__(self) -> str:
        sides = (", ".join(str(each) for each in side) for side in (self.inputs, self.outputs))
        return " -> ".join(sides)

    @classmethod
    def parse(cls, text: str, field: str = "spec.signature") -> Signature:
        """Read a signature.

        Raises:
            InvalidError: naming the place and what was expected there.
        """
        return _Parser(text, field).signature()

    def with_strategy(self, strategy: str, field: str = "spec.signature") -> Signature:
        """The signature with the outputs that the strategy adds, in front.

        Raises:
            InvalidError: where the signature itself has such a field.
        """
        if strategy != "ChainOfThought":
            return self
        if any(each.name == REASONING for each in (*self.inputs, *self.outputs)):
            raise InvalidError(
                field,
                f"the field `{REASONING}` is added by the strategy ChainOfThought; leave it out",
            )
        return Signature(self.inputs, (SignatureField(REASONING, FieldType("str")), *self.outputs))

    def input_problems(self, values: Mapping[str, Any], field: str) -> list[InvalidError]:
        """What keeps these values from being the Agent's inputs; empty where nothing does."""
        return _problems(self.inputs, values, field)

    def output_problems(self, values: Mapping[str, Any], field: str) -> list[InvalidError]:
        """What keeps these values from being the Agent's outputs; empty where nothing does."""
        return _problems(self.outputs, values, field)

    def demo_problems(self, values: Mapping[str, Any], field: str) -> list[InvalidError]:
        """What keeps these values from being a worked example: every input and output, no more."""
        return _problems((*self.inputs, *self.outputs), values, field)


def _problems(
    fields: tuple[SignatureField, ...], values: Mapping[str, Any], field: str
) -> list[InvalidError]:
    found = [
        InvalidError(f"{field}.{each.name}", f"is required, as {each.type}")
        if each.name not in values
        else InvalidError(f"{field}.{each.name}", f"must be {each.type}")
        for each in fields
        if each.name not in values or not each.type.accepts(values[each.name])
    ]
    known = [each.name for each in fields]
    unknown = [name for name in values if name not in known]
    return found + [
        InvalidError(f"{field}.{name}", f"is not in the signature, which has {', '.join(known)}")
        for name in unknown
    ]


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


class _Parser:
    """Recursive descent; `self._at` is where the next token starts."""

    def __init__(self, text: str, field: str) -> None:
        self._text, self._field, self._at = text, field, 0
        self._kind, self._word, self._start = "", "", 0
        self._names: set[str] = set()
        self._advance()

    def signature(self) -> Signature:
        inputs = self._fields("->", "an input")
        self._advance()
        return Signature(inputs, self._fields("", "an output"))

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        assert match is not None  # any text has a token: a sign or the end
        self._kind = match.lastgroup or "end"
        self._word = match.group(self._kind)
        self._start, self._at = match.start(self._kind), match.end()

    def _refuse(self, expected: str) -> InvalidError:
        found = f"`{self._word}`" if self._word else "the end"
        return InvalidError(
            self._field, f"expected {expected} at column {self._start + 1}, found {found}"
        )

    def _expect(self, sign: str, expected: str) -> None:
        if self._word != sign:
            raise self._refuse(expected)
        self._advance()

    def _fields(self, end: str, what: str) -> tuple[SignatureField, ...]:
        """Fields up to `end`, which is not consumed."""
        fields = [self._named(what)]
        while self._word == ",":
            self._advance()
            fields.append(self._named(what))
        if self._word != end:
            raise self._refuse("`,` or `->`" if end else "`,` or the end")
        if len(fields) > MAX_FIELDS:
            raise InvalidError(
                self._field, f"has {len(fields)} fields; at most {MAX_FIELDS} a side"
            )
        return tuple(fields)

    def _named(self, what: str) -> SignatureField:
        if self._kind != "name":
            raise self._refuse(f"the name of {what}")
        name = self._word
        if keyword.iskeyword(name) or name.startswith("_"):
            raise self._refuse(
                f"a name of {what} that is no Python keyword and begins with a letter"
            )
        if name in self._names:
            raise InvalidError(
                self._field, f"the field `{name}` appears twice, again at column {self._start + 1}"
            )
        if len(name) > MAX_NAME:
            raise InvalidError(
                self._field, f"has a name of {len(name)} letters; at most {MAX_NAME}"
            )
        self._names.add(name)
        self._advance()
        if self._word != ":":
            return SignatureField(name, FieldType("str"))
        self._advance()
        return SignatureField(name, self._type(MAX_NESTING))

    def _type(self, nesting: int) -> FieldType:
        if nesting == 0:
            raise self._refuse(f"at most {MAX_NESTING} lists in each other")
        name = self._word
        if name in _SCALARS:
            self._advance()
            return FieldType(name)
        if name == "list":
            self._advance()
            self._expect("[", "`[` and the type of the items")
            item = self._type(nesting - 1)
            self._expect("]", "`]`")
            return FieldType("list", item=item)
        if name == "Literal":
            self._advance()
            self._expect("[", "`[` and texts in quotes")
            return FieldType("Literal", choices=self._choices())
        raise self._refuse("a type (str, int, float, bool, dict, list[T] or Literal['a', 'b'])")

    def _choices(self) -> tuple[str, ...]:
        choices: list[str] = []
        while True:
            if self._kind != "text":
                raise self._refuse("a text in quotes")
            choices.append(self._word[1:-1])
            self._advance()
            if self._word != ",":
                self._expect("]", "`,` or `]`")
                return tuple(dict.fromkeys(choices))
            self._advance()
