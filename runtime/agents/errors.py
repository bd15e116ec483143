"""What can go wrong with an Agent, beyond what `crds.errors` names.

TerminalError
└── UnknownModuleError     no reasoning strategy of that name
RetryableError
├── BudgetExceededError    no budget pays for the call now; raising it does
├── AnswerMalformedError   the model's answer does not fit the signature
└── AnswerTimeoutError     no answer in time
"""

from __future__ import annotations

from collections.abc import Iterable

from seedbed.crds.errors import RetryableError, TerminalError


class UnknownModuleError(TerminalError):
    """There is no reasoning strategy of that name.

    Attributes:
        name: what was asked for.
    """

    code = "module_not_found"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"module {name!r} does not exist; there are {', '.join(known)}")
        self.name = name


class AnswerMalformedError(RetryableError):
    """The model's answer does not fit the signature; another attempt may.

    Attributes:
        field: the output that does not fit, or `answer` where no field can be told.
    """

    code = "answer_malformed"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class BudgetExceededError(RetryableError):
    """No budget pays for the call until somebody raises one; see the model service."""

    code = "budget_exceeded"


class AnswerTimeoutError(RetryableError):
    """The Agent did not answer in time.

    Attributes:
        seconds: the time it had.
    """

    code = "timeout"

    def __init__(self, agent: str, seconds: float) -> None:
        super().__init__(f"agent {agent!r} did not answer within {seconds:g} s")
        self.seconds = seconds
