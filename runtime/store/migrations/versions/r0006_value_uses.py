"""Which run needs which large value. Values from before are pinned: nobody knows who needs them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table; the user of what is there already is the empty name."""
    op.create_table(
        "value_uses",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, primary_key=True),
    )
    op.create_index("value_uses_by_digest", "value_uses", ["digest"])
    op.execute("INSERT INTO value_uses (run, digest) SELECT '', digest FROM large_values")


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("value_uses")
