"""Single answers of models that somebody has judged: what routing is fitted to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "judged_answers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("good", sa.Double, nullable=False),
        sa.Column("marks", sa.LargeBinary, nullable=False),
    )
    op.create_index("judged_answers_by_time", "judged_answers", ["at"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("judged_answers")
