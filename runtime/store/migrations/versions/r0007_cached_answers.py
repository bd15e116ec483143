"""The cache of model answers, and what it has counted.

Vectors need PostgreSQL's extension `vector`. Where the server has not got it, or this user may not
create it, they are kept as bytes: the cache works all the same, gateways compare in memory only.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa
from alembic import op

from seedbed.runtime.store.vectors import DIMENSIONS, Vector

revision = "0007"
down_revision = "0006"

log = logging.getLogger(__name__)


def upgrade() -> None:
    """Create the tables."""
    vectors = _has_vectors()
    op.create_table(
        "cached_answers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("prompt_hash", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("hit_count", sa.Integer, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("embedding", Vector(DIMENSIONS) if vectors else sa.LargeBinary),
        sa.Column("packed", sa.LargeBinary, nullable=False),
        sa.Column("learnt", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("namespace", "model", "prompt_hash", name="cached_answers_by_prompt"),
    )
    op.create_index("cached_answers_newest", "cached_answers", ["namespace", "created_at"])
    op.create_index("cached_answers_by_scope", "cached_answers", ["namespace", "scope"])
    op.create_index("cached_answers_expiring", "cached_answers", ["expires_at"])
    if vectors:
        op.create_index(
            "cached_answers_by_embedding",
            "cached_answers",
            ["embedding"],
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_cosine_ops"},
        )
    op.create_table(
        "cache_counts",
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("amount", sa.Double, nullable=False),
    )


def _has_vectors() -> bool:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return False
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
    except sa.exc.DBAPIError as error:
        log.warning(
            "PostgreSQL's extension `vector` cannot be used; cached answers are compared in the "
            "gateways' memory only: %s",
            error.orig,
        )
        return False
    return True


def downgrade() -> None:
    """Drop them; the extension stays, others may use it."""
    op.drop_table("cache_counts")
    op.drop_table("cached_answers")
