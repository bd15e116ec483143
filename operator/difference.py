"""Whether what is there already is what should be. Pure; decides if a write is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seedbed.controllers.plan import Raw

TOKEN = "fencingToken"  # noqa: S105 -- the name of a field


def covers(desired: Any, observed: Any) -> bool:
    """Whether `observed` has everything of `desired`; what the server added does not count.

    Empty values in `desired` and absent ones in `observed` are the same.
    """
    if isinstance(desired, Mapping):
        if not isinstance(observed, Mapping):
            return not desired and observed is None
        return all(
            covers(value, observed.get(name))
            for name, value in desired.items()
            if value is not None
        )
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        if not desired:
            return not observed
        if not isinstance(observed, Sequence) or len(desired) != len(observed):
            return False
        return all(map(covers, desired, observed))
    if isinstance(desired, bool) or isinstance(observed, bool):
        return desired is observed
    # The server keeps quantities as text, a user's `1` becomes "1", and a float without a fraction as `1`.
    return bool(desired == observed or str(desired) == str(observed))


def same_status(desired: Raw, observed: Raw | None) -> bool:
    """Whether a status would change nothing; the fencing token alone is no change.

    A status is the operator's alone, so what stands there and is not desired should go, at any depth.
    """
    known = {name: value for name, value in (observed or {}).items() if name != TOKEN}
    return covers(desired, known) and covers(known, desired)
