"""Errors on the wire: the one table of what each SeedbedError carries and how it is made again.

An error travels as JSON: `code`, `message`, `family` (the nearest code that every version knows) and
`attributes`. A code that the receiver does not know becomes an error of the family with that code, so
that who may retry is right also between versions, and for errors that only one part defines.
"""

from __future__ import annotations

from typing import Any

import orjson

from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    InvalidError,
    NotFoundError,
    QueueFullError,
    RetryableError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)

# Each error with the attributes that its constructor takes, in order.
_FORMS: dict[type[SeedbedError], tuple[str, ...]] = {
    SeedbedError: ("message",),
    TerminalError: ("message",),
    InvalidError: ("field", "expected"),
    NotFoundError: ("kind", "name"),
    FencedError: ("what", "mine", "newest"),
    RetryableError: ("message", "retry_after"),
    UnavailableError: ("message", "retry_after"),
    QueueFullError: ("queue", "limit", "retry_after"),
    ConflictError: ("message",),
}
_BY_CODE = {form.code: form for form in _FORMS}


def error_fields(error: SeedbedError) -> dict[str, Any]:
    """An error as a JSON object."""
    form = next(each for each in type(error).__mro__ if each in _FORMS)
    return {
        "code": error.code,
        "message": error.message,
        "family": form.code,
        "attributes": {name: getattr(error, name) for name in _FORMS[form]},
    }


def error_from(fields: dict[str, Any]) -> SeedbedError:
    """The error that a JSON object tells of; `message` alone is enough."""
    code = str(fields.get("code", SeedbedError.code))
    form = _BY_CODE.get(code) or _BY_CODE.get(str(fields.get("family")), SeedbedError)
    message = str(fields.get("message", code))
    attributes = {"message": message, **(fields.get("attributes") or {})}
    # What an older sender leaves out is None; the message tells it all the same.
    values: Any = (attributes.get(name) for name in _FORMS[form])
    error = form(*values)
    error.code, error.message, error.args = code, message, (message,)
    return error


def encode_error(error: SeedbedError) -> bytes:
    """An error as bytes."""
    return orjson.dumps(error_fields(error))


def decode_error(data: bytes) -> SeedbedError:
    """The error that the bytes tell of; what is no such error becomes a plain SeedbedError."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        return SeedbedError("the other side failed without saying how")
    return error_from(fields if isinstance(fields, dict) else {})
