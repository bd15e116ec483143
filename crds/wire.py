"""Messages as JSON, the form in which they travel."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson

from seedbed.crds.errors import InvalidError

_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}


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
    decoder = _DECODERS.get(form)
    if decoder is None:
        decoder = _DECODERS[form] = msgspec.json.Decoder(form)
    try:
        message: _T = decoder.decode(data)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        field = where.removesuffix("`").replace("[", ".").replace("]", "").strip(".")
        raise InvalidError(field or "message", problem) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidError("message", f"must be JSON: {error}") from error
    return message
