"""Decides whether a FeatureFlag is on for a subject. Pure: the same spec and subject, the same answer.

A percentage is a share of subjects and never a truth value by itself: each subject falls into one
of 10,000 buckets by a hash of the flag's key and the subject, and the flag is on for the buckets
below the percentage. So raising the percentage only adds subjects, and two flags at 10 % are not
on for the same tenth.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from seedbed.crds.feature_flag import FeatureFlagSpec

BUCKETS = 10_000
"""Hundredths of a percent: the finest step of a rollout."""

Reason = Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "DEFAULT"]
"""OpenFeature's words. STATIC: the same for everybody, so a client may keep it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a flag is for one subject, and why.

    Attributes:
        value: whether it is on.
        reason: an OpenFeature reason.
        variant: `on` or `off`.
    """

    value: bool
    reason: Reason

    @property
    def variant(self) -> str:
        """The name of the value."""
        return "on" if self.value else "off"


def evaluate(spec: FeatureFlagSpec, key: str, subject: str | None) -> Decision:
    """Decide a flag for a subject.

    Args:
        spec: the flag.
        key: `namespace/name` of the flag.
        subject: whom it is asked for; None where the caller names nobody. A percentage strictly
            between 0 and 100 is then off, since nobody's bucket can be told.

    Returns:
        The decision, in the order given by `FeatureFlagSpec`.
    """
    if not spec.enabled:
        return Decision(value=False, reason="DISABLED")
    if subject is not None and subject in spec.block:
        return Decision(value=False, reason="TARGETING_MATCH")
    if subject is not None and subject in spec.allow:
        return Decision(value=True, reason="TARGETING_MATCH")
    if spec.rollout_percentage in (0.0, 100.0):
        same_for_all = not spec.allow and not spec.block
        return Decision(
            value=spec.rollout_percentage == 100.0,  # noqa: PLR2004 - everybody
            reason="STATIC" if same_for_all else "DEFAULT",
        )
    if subject is None:
        return Decision(value=False, reason="DEFAULT")
    # Rounded because 1.1 * 100 is a little above 110, which would let one bucket too many in.
    threshold = round(spec.rollout_percentage * BUCKETS / 100, 6)
    return Decision(value=bucket(key, subject) < threshold, reason="SPLIT")


def bucket(key: str, subject: str) -> int:
    """The bucket, 0 to 9,999, that a subject has for a flag for ever."""
    digest = hashlib.sha256(f"{key}/{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS
