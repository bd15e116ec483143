"""Which failures are worth another try, and when. Pure.

The wait doubles with each retry and is varied by a quarter either way, so that waits still grow and
callers that failed together do not come back together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seedbed.crds.errors import (
    InvalidError,
    QueueFullError,
    RetryableError,
    SeedbedError,
)
from seedbed.runtime.llm.providers import RateLimitedError

MOST_RETRIES = 5
_JITTER = 0.25

ErrorClass = Literal["caller", "refused", "full", "limited", "passing"]
"""caller: the request is wrong, nobody can answer it. refused: this target will never answer it.
full: a bounded queue of ours; waiting for it would be a second queue without a bound.
limited: the provider is well and has no room. passing: the target failed, and may work again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one target is asked again for one request.

    Attributes:
        retries: beyond the first try; at most `MOST_RETRIES` count.
        base: seconds before the first retry, without jitter.
        longest: seconds between two tries, at most.
    """

    retries: int = 2
    base: float = 0.5
    longest: float = 10.0


def classify(error: SeedbedError) -> ErrorClass:
    """What a failure means for what to do next."""
    if isinstance(error, InvalidError):
        return "caller"
    if isinstance(error, QueueFullError):
        return "full"
    if isinstance(error, RateLimitedError):
        return "limited"
    return "passing" if isinstance(error, RetryableError) else "refused"


def blames_target(error: SeedbedError) -> bool:
    """Whether a failure counts against the target in its breaker."""
    return classify(error) in ("refused", "passing")


def wait_before(
    policy: RetryPolicy, retry: int, error: SeedbedError, left: float, chance: float
) -> float | None:
    """Seconds to wait before a retry, or None where there is to be none.

    Args:
        policy: of the target.
        retry: 1 for the first retry.
        error: what the last try ended with.
        left: seconds until the request's deadline.
        chance: a random number from 0 to 1.
    """
    if retry > min(policy.retries, MOST_RETRIES):
        return None
    if classify(error) not in ("limited", "passing"):
        return None
    grown = policy.base * 2.0 ** (retry - 1) * (1 - _JITTER + 2 * _JITTER * chance)
    told = error.retry_after if isinstance(error, RetryableError) else None
    wait = max(min(grown, policy.longest), told or 0.0)
    # Somebody who says "in an hour" is not waited for: others may answer at once.
    if wait > policy.longest or wait >= left:
        return None
    return wait
