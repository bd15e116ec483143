"""Batches of offline work: their files, their lines, and what of them is with providers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_TABLES = ("batch_parts", "batch_lines", "batches", "batch_chunks", "batch_files")


def upgrade() -> None:
    """Create the tables."""
    _files()
    _batches()
    _lines()
    op.create_table(
        "batch_parts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("batch", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("provider_file", sa.Text, nullable=False),
        sa.Column("provider_batch", sa.Text, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
    )
    op.create_index("batch_parts_by_batch", "batch_parts", ["batch", "state"])


def _files() -> None:
    op.create_table(
        "batch_files",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("batch", sa.Text, nullable=False),
    )
    op.create_index("batch_files_newest", "batch_files", ["namespace", "created_at", "id"])
    op.create_table(
        "batch_chunks",
        sa.Column("file", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("written_at", sa.Double, nullable=False),
    )


def _batches() -> None:
    counted = ("total", "completed", "failed", "by_provider", "by_gateway", "by_cache", "by_equal")
    summed = ("prompt_tokens", "completion_tokens", "nanos", "saved")
    texts = ("namespace", "agent", "workflow", "run", "user", "endpoint", "input_file", "metadata")
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("in_progress_at", sa.Double),
        sa.Column("finalizing_at", sa.Double),
        sa.Column("cancelling_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("errors", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in counted),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in summed),
    )
    op.create_index("batches_newest", "batches", ["namespace", "created_at", "id"])
    op.create_index("batches_by_status", "batches", ["status", "created_at"])


def _lines() -> None:
    op.create_table(
        "batch_lines",
        sa.Column("batch", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("custom_id", sa.Text, nullable=False),
        sa.Column("same_as", sa.Integer),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("part", sa.Text, nullable=False),
        sa.Column("way", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("nanos", sa.BigInteger, nullable=False),
        sa.Column("saved", sa.BigInteger, nullable=False),
    )
    op.create_index("batch_lines_by_state", "batch_lines", ["batch", "state", "number"])
    op.create_index("batch_lines_equal", "batch_lines", ["batch", "same_as"])


def downgrade() -> None:
    """Drop the tables."""
    for table in _TABLES:
        op.drop_table(table)
