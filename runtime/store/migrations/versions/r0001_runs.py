"""Partitions, runs, their journals and snapshots, large values."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "partitions",
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("token", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("run", sa.Text, nullable=False, unique=True),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("summary", sa.LargeBinary, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
    )
    unfinished = sa.column("finished") == sa.false()
    op.create_index(
        "runs_unfinished",
        "runs",
        ["partition", "position"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_index("runs_by_namespace", "runs", ["namespace", "workflow", "position"])
    op.create_table(
        "journal",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("records", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "snapshots",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("records", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "large_values",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop everything."""
    for table in ("large_values", "snapshots", "journal", "runs", "partitions"):
        op.drop_table(table)
