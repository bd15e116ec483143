"""What the cache counts: every tier, what it saved, how long hits and misses take, how many were wrong.

Counts are sums by namespace and name, so that those of several gateways and days can be added.
Times are counted in classes that grow by a seventh, so a percentile is off by a seventh at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypedDict

from seedbed.crds.money import dollars

Result = Literal["exact", "semantic", "stale", "miss", "bypass"]
RESULTS: tuple[Result, ...] = ("exact", "semantic", "stale", "miss", "bypass")
HITS: tuple[Result, ...] = ("exact", "semantic", "stale")
Timed = Literal["hit", "miss", "lookup"]

_LEAST = 1e-5
_GROWTH = 1.15
_NOTHING = 1e-9
_Z = 1.96


class Withheld(TypedDict):
    """Hits that the settings did not let be served."""

    exact: int
    semantic: int


class Saved(TypedDict):
    """What need not be asked again; money is text."""

    dollars: str
    prompt_tokens: int
    completion_tokens: int


class P95Seconds(TypedDict):
    """Times that 95 % stay under."""

    hits: float | None
    misses: float | None
    lookups: float | None


class WrongHits(TypedDict):
    """The measured share of wrong answers among semantic hits, and of wrong answers among all lookups."""

    verified: int
    wrong: int
    per_hit: float | None
    per_hit_at_most: float | None
    per_lookup: float | None


class CacheSummary(TypedDict):
    """All that is counted."""

    lookups: int
    exact_hits: int
    semantic_hits: int
    stale_hits: int
    misses: int
    bypasses: int
    hit_rate: float | None
    withheld: Withheld
    passed_by: int
    stored: int
    saved: Saved
    spent_dollars: str
    p95_seconds: P95Seconds
    wrong_hits: WrongHits


def time_class(seconds: float) -> int:
    """The class of a time; `class_end` is the longest time in it."""
    return max(0, math.ceil(math.log(max(seconds, _LEAST) / _LEAST, _GROWTH)))


def class_end(number: int) -> float:
    """Seconds."""
    return float(_LEAST * _GROWTH**number)


def timed(what: Timed, seconds: float) -> str:
    """The name under which a time is counted."""
    return f"{what}_time:{time_class(seconds)}"


def percentile(counts: Mapping[str, float], what: Timed, share: float) -> float | None:
    """Seconds within which a share of the times lie; None where there are none."""
    prefix = f"{what}_time:"
    found = sorted(
        (int(n.removeprefix(prefix)), c) for n, c in counts.items() if n.startswith(prefix)
    )
    wanted = share * sum(count for _, count in found)
    for number, count in found:
        wanted -= count
        if wanted <= _NOTHING:
            return class_end(number)
    return None


def summary(counts: Mapping[str, float]) -> CacheSummary:
    """All of it for people and the API; `counts` by name, of one namespace or of several added up."""

    def of(name: str) -> int:
        return round(counts.get(name, 0))

    tiers = {name: of(name) for name in RESULTS}
    lookups = sum(tiers.values()) - tiers["bypass"]
    hits = sum(tiers[name] for name in HITS)
    return {
        "lookups": lookups,
        "exact_hits": tiers["exact"],
        "semantic_hits": tiers["semantic"],
        "stale_hits": tiers["stale"],
        "misses": tiers["miss"],
        "bypasses": tiers["bypass"],
        "hit_rate": _share(hits, lookups),
        "withheld": {"exact": of("withheld_exact"), "semantic": of("withheld_semantic")},
        "passed_by": of("passed_by"),
        "stored": of("stored"),
        "saved": {
            "dollars": dollars(of("saved_nanos")),
            "prompt_tokens": of("saved_prompt_tokens"),
            "completion_tokens": of("saved_completion_tokens"),
        },
        "spent_dollars": dollars(of("spent_nanos")),
        "p95_seconds": {
            "hits": _rounded(percentile(counts, "hit", 0.95)),
            "misses": _rounded(percentile(counts, "miss", 0.95)),
            "lookups": _rounded(percentile(counts, "lookup", 0.95)),
        },
        "wrong_hits": _wrong(of("verified"), of("verified_wrong"), of("semantic"), lookups),
    }


def _wrong(verified: int, wrong: int, hits: int, lookups: int) -> WrongHits:
    """The measured share of wrong answers among semantic hits, and of wrong answers among all lookups.

    Measured on those hits that were asked anyway, which are chosen by chance. `per_hit_at_most` is
    the upper end of Wilson's 95 % interval.
    """
    per_hit = _share(wrong, verified)
    per_lookup = None
    if per_hit is not None and lookups:
        per_lookup = round(per_hit * hits / lookups, 6)
    return {
        "verified": verified,
        "wrong": wrong,
        "per_hit": per_hit,
        "per_hit_at_most": _at_most(wrong, verified),
        "per_lookup": per_lookup,
    }


def _at_most(wrong: int, of: int) -> float | None:
    if not of:
        return None
    share, square = wrong / of, _Z**2
    middle = share + square / (2 * of)
    width = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of**2))
    return round((middle + width) / (1 + square / of), 6)


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
