"""What the ledger keeps: a section of the models file."""

from __future__ import annotations

from pydantic import Field

from seedbed.crds.base import Model


class LedgerSettings(Model):
    """How long single calls stay in the ledger."""

    retention_days: int = Field(
        default=90,
        ge=0,
        le=36_500,
        description=(
            "Days after which calls are kept as sums of their day; 0 keeps each of them for ever."
        ),
    )
