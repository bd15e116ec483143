"""The one tree of errors.

    SeedbedError
    ├── TerminalError        trying again does not help: the input has to change
    │   ├── InvalidError         a value is wrong; names the field and what was expected
    │   │   └── TooCostlyError       an expression takes more than it may
    │   ├── NotFoundError        a named thing does not exist
    │   └── FencedError          a newer owner exists; this process must stop writing
    ├── RetryableError       trying again after `retry_after` seconds may help
    │   ├── UnavailableError     a server did not answer or refused for now
    │   │   └── PlanUnavailableError     the document with a plan's steps cannot be had for now
    │   └── QueueFullError       a bounded queue is full
    └── ConflictError        somebody else changed the thing; read it again and decide again

Errors become kopf's or HTTP's only at the edge.
"""

from __future__ import annotations


class SeedbedError(Exception):
    """Root of every error that Seedbed raises on purpose.

    Attributes:
        code: a stable, machine-readable name, the same in logs, results and HTTP answers.
    """

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TerminalError(SeedbedError):
    """Trying again does not help."""

    code = "terminal"


class InvalidError(TerminalError):
    """A value is wrong.

    Attributes:
        field: path of the value as a user writes it, such as `spec.steps[2].when`.
        expected: what would have been right, as the end of a sentence.
    """

    code = "invalid"

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}")
        self.field = field
        self.expected = expected

    def inside(self, field: str) -> InvalidError:
        """The same error of a spec that stands under another field."""
        return InvalidError(f"{field}.{self.field.removeprefix('spec.')}", self.expected)


class TooCostlyError(InvalidError):
    """An expression takes more time or memory than it may, or gives more.

    Attributes:
        limit: which limit: time, memory or result.
    """

    code = "expression_too_costly"

    def __init__(self, field: str, expected: str, limit: str) -> None:
        super().__init__(field, expected)
        self.limit = limit

    def inside(self, field: str) -> TooCostlyError:
        """The same error of a spec that stands under another field."""
        return TooCostlyError(super().inside(field).field, self.expected, self.limit)


class NotFoundError(TerminalError):
    """A named thing does not exist."""

    code = "not_found"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} does not exist")
        self.kind = kind
        self.name = name


class FencedError(TerminalError):
    """A newer owner holds the thing; every write of this one is refused from now on.

    Attributes:
        what: the thing owned, such as `partition/3`.
        mine: the fencing token this process holds.
        newest: the newest token known, or None where the refusing side does not tell.
    """

    code = "fenced"

    def __init__(self, what: str, mine: int, newest: int | None = None) -> None:
        known = "a newer one" if newest is None else str(newest)
        super().__init__(f"{what}: token {mine} is fenced off by {known}")
        self.what = what
        self.mine = mine
        self.newest = newest


class RetryableError(SeedbedError):
    """Trying again may help.

    Attributes:
        retry_after: seconds to wait first, or None where the caller's own backoff applies.
    """

    code = "retryable"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(RetryableError):
    """A server did not answer, or refused for now."""

    code = "unavailable"


class PlanUnavailableError(UnavailableError):
    """The document with a plan's steps is not there, or does not come, for now."""

    code = "plan_unavailable"


class QueueFullError(RetryableError):
    """A bounded queue is full.

    Attributes:
        queue: its name.
        limit: how many entries it takes.
    """

    code = "queue_full"

    def __init__(self, queue: str, limit: int, retry_after: float | None = None) -> None:
        super().__init__(f"queue {queue!r} is full at {limit} entries", retry_after)
        self.queue = queue
        self.limit = limit


class ConflictError(SeedbedError):
    """Somebody else changed the thing first."""

    code = "conflict"
