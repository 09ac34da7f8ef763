"""Alembic's environment: runs on the connection (and transaction) that ``migrate`` gives."""

from __future__ import annotations

from alembic import context

from raypacs.index.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
