"""Messages as JSON, the form in which they travel."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec
import orjson

from seedbed.crds.errors import InvalidError

_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}


def _decoder(form: type) -> msgspec.json.Decoder[Any]:
    if form not in _DECODERS:
        _DECODERS[form] = msgspec.json.Decoder(form)
    return _DECODERS[form]


def encode(message: Any) -> bytes:
    """A message as JSON."""
    try:
        return _ENCODER.encode(message)
    except TypeError:
        # Values may hold what only the other one takes, such as keys that are no text.
        return orjson.dumps(message, msgspec.structs.asdict, orjson.OPT_NON_STR_KEYS)


def decode(form: type[_T], data: bytes) -> _T:
    """A message from JSON.

    Raises:
        InvalidError: naming the first field that is not as expected.
    """
    try:
        return cast("_T", _decoder(form).decode(data))
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        field = where.removesuffix("`").replace("[", ".").replace("]", "").strip(".")
        raise InvalidError(field or "message", problem) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidError("message", f"must be JSON: {error}") from error
