"""Trials of `recstill tune`."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "trial",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study", sa.String, nullable=False, index=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), nullable=False, index=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("scores", sa.JSON, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("study", "number"),
    )
