"""Decisions that people make about scores near the threshold."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "review",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False, index=True),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False, index=True),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("band", sa.String, nullable=False),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision", sa.String, nullable=True),
        sa.Column("reviewer", sa.String, nullable=True),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("request", "subject"),
    )
