"""Alembic runs this file to apply revisions on the connection that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from seedbed.runtime.store.schema import metadata

# The caller holds the transaction and the lock that keeps other processes out. SQLite can undo a
# change of the schema as PostgreSQL can; Alembic only does not expect it to.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
