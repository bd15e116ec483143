"""Indexes for what is looked for in tables that grow: by file, batch, holder and hash."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

_INDEXES = (
    ("batches_by_input_file", "batches", ["input_file"]),
    ("batch_files_by_batch", "batch_files", ["batch", "created_at"]),
    ("advances_by_holder", "advances", ["holder"]),
    ("cached_answers_by_hash", "cached_answers", ["prompt_hash"]),
)


def upgrade() -> None:
    """Create the indexes."""
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Drop the indexes."""
    for name, table, _ in _INDEXES:
        op.drop_index(name, table)
