"""What model calls cost: accounts, advances on them, the ledger; and how good the answers were."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "accounts",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("refused_under", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "advances",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("nanos", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("prices", sa.Text, nullable=False),
    )
    op.create_index("ledger_by_namespace", "ledger", ["namespace", "at"])
    op.create_table(
        "outcomes",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("task", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("hardness", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("asked", sa.Double, nullable=False),
        sa.Column("good", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("outcomes", "ledger", "advances", "accounts"):
        op.drop_table(table)
