"""Lines of a batch: what callers write, what providers say of them, what callers are given. Pure.

A file is JSON Lines. Each line of it is a request, and what becomes of it is a line of the batch's
output or error file:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "body": {...}}, "error": null}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from seedbed.crds.errors import InvalidError, SeedbedError
from seedbed.runtime.llm.endpoints import Endpoint, Request
from seedbed.runtime.llm.requests import ChatRequest, Json
from seedbed.runtime.store.batches import LineRow

MOST_LINES = 50_000
LARGEST_LINE = 8 * 1024 * 1024
MOST_FAULTS = 100
"""Of a file, that are told; where there are more, the rest is not looked at."""
LONGEST_ID = 256
_LONGEST_TOLD = 500
"""Characters of a field's name, and of what is wrong with it: both may come from the file."""
_OK, _FIRST_ERROR, _NO_ANSWER = 200, 400, 502
_LARGEST_NUMBER = 2**31 - 1
FAILED, CANCELLED, EXPIRED = 597, 598, 599
"""Statuses of lines that nobody was asked; no server answers with them."""
_NEVER_ASKED = {
    FAILED: ("batch_failed", "The batch failed before this request was answered."),
    CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was made."),
    EXPIRED: ("batch_expired", "The batch ran out of time before this request was made."),
}
_FIELDS = frozenset({"custom_id", "method", "url", "body"})


class LineError(InvalidError):
    """Something is wrong with one line of a file, or with all of it where `line` is None."""

    def __init__(self, line: int | None, field: str, expected: str, code: str) -> None:
        super().__init__(field, expected)
        self.line = line
        self.code = code

    def told(self) -> Json:
        """As it stands in a batch's `errors`."""
        where = "" if self.line is None else f"line {self.line}: "
        field, expected = self.field[:_LONGEST_TOLD], self.expected[:_LONGEST_TOLD]
        message = f"{where}{field}: {expected}"
        return {"code": self.code, "line": self.line, "message": message, "param": field}


@dataclass(frozen=True, slots=True)
class Line:
    """One line as a caller wrote it.

    Attributes:
        number: from 1, as in the file.
        body: the request as JSON.
    """

    number: int
    custom_id: str
    body: bytes
    request: Request


class Splitter:
    """Takes chunks of a file, gives its lines with their numbers; empty ones are left out."""

    def __init__(self) -> None:
        self._held = b""
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The lines that are whole now.

        Raises:
            LineError: where one is too long.
        """
        *whole, self._held = (self._held + chunk).split(b"\n")
        for line in whole:
            yield from self._given(line)
        if len(self._held) > LARGEST_LINE:
            raise LineError(self._number + 1, "line", "is too long", "line_too_large")

    def end(self) -> Iterator[tuple[int, bytes]]:
        """The last line, where no line's end stands behind it."""
        yield from self._given(self._held)
        self._held = b""

    def _given(self, line: bytes) -> Iterator[tuple[int, bytes]]:
        self._number += 1
        if line.strip():
            yield self._number, line


def read_line(number: int, data: bytes, endpoint: Endpoint, check: Callable[[str], object]) -> Line:
    """One line.

    Args:
        number: from 1.
        data: the line.
        endpoint: what the batch asks.
        check: raises SeedbedError where there is no model of that name.

    Raises:
        LineError: naming the first field that is not as expected.
    """

    def wrong(field: str, expected: str, code: str = "invalid_request") -> LineError:
        return LineError(number, field, expected, code)

    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise wrong("line", f"is no JSON: {error}", "invalid_json_line") from None
    if not isinstance(found, dict):
        raise wrong("line", "must be a JSON object", "invalid_json_line")
    name = found.get("custom_id")
    if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_ID or "\0" in name:
        raise wrong("custom_id", f"must be text of 1 to {LONGEST_ID} characters, none of them NUL")
    if found.get("method") != "POST":
        raise wrong("method", "must be POST", "invalid_method")
    if found.get("url") != endpoint.path:
        raise wrong("url", f"must be {endpoint.path}, as the batch says", "invalid_url")
    if unknown := sorted(found.keys() - _FIELDS):
        raise wrong(unknown[0], "is not known", "unknown_parameter")
    if not isinstance(found.get("body"), dict):
        raise wrong("body", "must be a JSON object")
    body = orjson.dumps(found["body"])
    try:
        request = endpoint.read(body)
        check(request.model)
    except InvalidError as error:
        raise wrong(f"body.{error.field}", error.expected) from None
    except SeedbedError as error:
        raise wrong("body.model", error.message, error.code) from None
    if isinstance(request, ChatRequest) and request.stream:
        raise wrong("body.stream", "is not for batches")
    return Line(number, name, body, request)


def output_line(row: LineRow) -> bytes:
    """What the caller is given for a line that is done."""
    name = f"batch_req_{row.batch.removeprefix('batch_')}_{row.number}"
    told: Json = {"id": name, "custom_id": row.custom_id, "response": None, "error": None}
    if row.status in _NEVER_ASKED:
        code, message = _NEVER_ASKED[row.status]
        told["error"] = {"code": code, "message": message}
    else:
        body = orjson.Fragment(row.answer)
        told["response"] = {"status_code": row.status, "request_id": name, "body": body}
    return orjson.dumps(told) + b"\n"


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider says of a line.

    Attributes:
        number: the line's.
        status: HTTP's; 0 where the request was never made.
        body: the answer, or the error in OpenAI's form.
    """

    number: int
    status: int
    body: Json


def told_by_provider(data: bytes) -> Told | None:
    """A line of a provider's output or error file; None where it is none of ours."""
    try:
        found: Any = orjson.loads(data)
        number = int(found["custom_id"])
        if not 0 < number <= _LARGEST_NUMBER:
            return None
        response, error = found.get("response"), found.get("error")
        if response:
            body = response.get("body")
            told = body if isinstance(body, dict) else {"error": {"message": str(body)}}
            status = int(response["status_code"])
            known = status == _OK or _FIRST_ERROR <= status < FAILED
            return Told(number, status if known else _NO_ANSWER, told)
        return Told(number, 0, {"error": error if isinstance(error, dict) else {}})
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError):
        return None
