"""Holds texts to JSON schemas that callers wrote, in bounded time and without leaving the process.

A schema is a program of a stranger: a `$ref` may name an address, which the library would fetch; a
pattern may take years to search; references may multiply without end. So a schema refers to itself
alone, and a check that takes longer than `LONGEST` seconds ends as an error of the schema.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
import regex  # type: ignore[import-untyped]  # it ships no types
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from jsonschema.exceptions import (  # type: ignore[import-untyped]  # likewise
    ValidationError,
    best_match,
)
from jsonschema.validators import extend  # type: ignore[import-untyped]  # likewise
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # likewise
from referencing import Registry
from referencing.exceptions import Unresolvable

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.requests import Json

FIELD = "response_format.json_schema.schema"
LARGEST = 128 * 1024
"""Bytes of a schema."""
LONGEST = 1.0
"""Seconds of one check."""
_LONGEST_REASON = 300
_USUAL = Draft202012Validator.VALIDATORS


class _Clock:
    """Until when the check that is under way may take; nothing waits within one."""

    until = 0.0

    def begin(self) -> None:
        self.until = time.monotonic() + LONGEST

    def left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


_clock = _Clock()


def _pattern(held: Any, pattern: str, found: Any, _: Any) -> Iterator[ValidationError]:
    if held.is_type(found, "string") and not regex.search(pattern, found, timeout=_clock.left()):
        yield ValidationError(f"{found!r} does not match {pattern!r}")


def _timed(keyword: str) -> Any:
    """The library's own check of a keyword that leads elsewhere, as long as there is time."""

    def check(held: Any, value: Any, found: Any, schema: Any) -> Iterator[ValidationError]:
        _clock.left()
        yield from _USUAL[keyword](held, value, found, schema)

    return check


_Validator = extend(
    Draft202012Validator,
    {"pattern": _pattern, **{name: _timed(name) for name in ("$ref", "$dynamicRef")}},
)
_FORM = _Validator(Draft202012Validator.META_SCHEMA, registry=REGISTRY)
"""What holds schemas to the form of schemas."""


def check_schema(schema: Json) -> None:
    """Pass where answers can be held to a schema.

    Raises:
        InvalidError: saying why not.
    """
    _held(schema)


def fault(text: str, schema: Json) -> str:
    """Why a text does not fit a schema, empty where it does.

    Raises:
        InvalidError: where that cannot be said.
    """
    held = _held(schema)
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is no JSON: {error}"
    problem = _first(held, found)
    return "" if problem is None else f"{problem.json_path}: {problem.message}"[:_LONGEST_REASON]


def _first(held: Any, found: Any) -> ValidationError | None:
    """What is wrong first, in time."""
    _clock.begin()
    try:
        return next(iter(held.iter_errors(found)), None)
    except Unresolvable as error:
        raise InvalidError(FIELD, f"refers to what is not there: {error}") from None
    except RecursionError:
        raise InvalidError(FIELD, "goes too deep, or refers to itself without end") from None
    except TimeoutError:
        raise InvalidError(FIELD, f"takes more than {LONGEST:g} s to check") from None


def _held(schema: Json) -> Any:
    data = orjson.dumps(schema)
    if len(data) > LARGEST:
        raise InvalidError(FIELD, f"is larger than {LARGEST} bytes")
    return _validator(data)


@lru_cache(maxsize=256)
def _validator(data: bytes) -> Any:
    """What holds answers to a schema; to check one takes longer than to check many answers by it."""
    schema = orjson.loads(data)
    if (problem := _first(_FORM, schema)) is not None:
        told = best_match([problem])
        raise InvalidError(FIELD, told.message[:_LONGEST_REASON])
    _stays_inside(schema)
    # With this registry nothing is fetched.
    return _Validator(schema, registry=Registry())


def _stays_inside(schema: Any) -> None:
    """Pass where nothing in a schema leads out of it, or searches without a limit of time."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            _alone(part)
            left += part.values()
        elif isinstance(part, list):
            left += part


def _alone(part: Json) -> None:
    for name in ("$ref", "$dynamicRef"):
        if isinstance(to := part.get(name), str) and not to.startswith("#"):
            raise InvalidError(FIELD, f"{name} must begin with #, it is {to[:_LONGEST_REASON]!r}")
    if "patternProperties" in part:
        raise InvalidError(FIELD, "patternProperties are not served")
    if isinstance(pattern := part.get("pattern"), str):
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise InvalidError(FIELD, f"{pattern[:_LONGEST_REASON]!r}: {error}") from None
