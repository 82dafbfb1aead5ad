"""Alembic's entry: runs on the connection that the registry opened."""

from alembic import context
from sqlmodel import SQLModel

from recstill.registry import models

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
assert models.AuditRow.metadata is SQLModel.metadata
with context.begin_transaction():
    context.run_migrations()
