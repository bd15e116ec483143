"""What a run does about a step that fails: classes of errors, retries, policies."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from seedbed.crds.base import Duration, Model, Name

ErrorClass = Literal[
    "timeout_error",
    "connection_error",
    "python_execution_error",
    "overload_error",
    "unknown_error",
]
CLASSES: tuple[str, ...] = (
    "timeout_error",
    "connection_error",
    "python_execution_error",
    "overload_error",
    "unknown_error",
)
"""Every error is of exactly one of these classes; its code tells more."""

_CLASS_OF_CODE: dict[str, ErrorClass] = {
    "timeout": "timeout_error",
    "connection_error": "connection_error",
    "unavailable": "connection_error",
    "lease_lost": "connection_error",
    "python_error": "python_execution_error",
    "entry_failed": "python_execution_error",
    "program_failed": "python_execution_error",
    "internal": "python_execution_error",
    "queue_full": "overload_error",
    "queue_timeout": "overload_error",
    "queue_shed": "overload_error",
}
MOST_ATTEMPTS = 6
"""One attempt and at most five retries."""

_CONNECTION = re.compile(r"Connect|BrokenPipe|Unreachable|Disconnect")


def class_of(code: str, kind: str = "") -> ErrorClass:
    """The class of an error.

    Args:
        code: its stable code.
        kind: name of the exception's type, where user code raised one.
    """
    if "Timeout" in kind:
        return "timeout_error"
    if _CONNECTION.search(kind):
        return "connection_error"
    return _CLASS_OF_CODE.get(code, "unknown_error")


class Retry(Model):
    """How often a failed step is tried again, how soon, and after which errors.

    Only errors after which another attempt may help are retried: a wrong input never is.
    """

    attempts: int = Field(
        default=3,
        description="Attempts in all, the first one counted.",
        ge=1,
        le=MOST_ATTEMPTS,
        examples=[3],
    )
    backoff: Duration = Field(
        default="1s",
        description="Wait before the second attempt; it doubles with each further one.",
        examples=["500ms"],
    )
    max_backoff: Duration = Field(
        default="1m", description="Longest wait between attempts.", examples=["30s"]
    )
    on: tuple[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", min_length=1, max_length=63)], ...
    ] = Field(
        default=(),
        description=(
            "Classes (`timeout_error`, `connection_error`, `python_execution_error`, "
            "`overload_error`, `unknown_error`) and codes of errors that are retried; all that may "
            "pass where none is named."
        ),
        max_length=32,
        examples=[["timeout_error", "connection_error"]],
    )


Action = Literal["fail", "continue", "skip", "fallback", "abort", "compensate"]


class OnError(Model):
    """What becomes of the run when a step has failed for good."""

    action: Action = Field(
        description=(
            "`fail` fails the run; `continue` goes on, the output is null and `error` tells why; "
            "`skip` goes on and the step counts as skipped; `fallback` runs another step whose "
            "output counts as this one's; `abort` ends the run at once, with the reason `Aborted`; "
            "`compensate` lets running steps end, then runs `compensate` of every step that "
            "succeeded, the last one first, and fails the run."
        ),
        examples=["fallback"],
    )
    step: Name | None = Field(
        default=None,
        description="The step that `fallback` runs. It runs only then, and else is skipped.",
        examples=["ask-a-person"],
    )
