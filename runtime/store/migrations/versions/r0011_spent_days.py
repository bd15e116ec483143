"""What was spent day by day: calls that are old are added to it, and found by their time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the table and the index."""
    op.create_table(
        "spent_days",
        *(
            sa.Column(name, sa.Text, primary_key=True)
            for name in ("day", "namespace", "workflow", "agent", "user", "model")
        ),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("calls", "prompt_tokens", "completion_tokens", "nanos")
        ),
    )
    op.create_index("ledger_by_time", "ledger", ["at"])


def downgrade() -> None:
    """Drop the index and the table."""
    op.drop_index("ledger_by_time", "ledger")
    op.drop_table("spent_days")
