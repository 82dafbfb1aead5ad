"""The first tables, and an audit log that cannot be rewritten."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "plugin",
        sa.Column("distribution", sa.String, primary_key=True),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("entry_point", sa.String, nullable=False),
        sa.Column("hooks", sa.JSON, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("registered_at", time, nullable=False),
    )
    op.create_table(
        "snapshot",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("task", sa.String, nullable=False, index=True),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("num_rows", sa.Integer, nullable=False),
        sa.Column("feature_service", sa.String, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("created_at", time, nullable=False),
    )
    op.create_table(
        "feature_set",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("service", sa.String, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.UniqueConstraint("service", "fingerprint"),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("recipe", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False, index=True),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("error", sa.String, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("report", sa.String, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("started_at", time, nullable=False),
        sa.Column("finished_at", time),
    )
    op.create_table(
        "metric",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), nullable=False, index=True),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("spread", sa.Float, nullable=False),
        sa.Column("num_seeds", sa.Integer, nullable=False),
        sa.UniqueConstraint("run_id", "subject", "name"),
    )
    op.create_table(
        "model",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("created_at", time, nullable=False),
    )
    op.create_table(
        "artifact",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("created_at", time, nullable=False),
    )
    op.create_table(
        "version",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("model_name", sa.String, sa.ForeignKey("model.name"), nullable=False, index=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("artifact", sa.String, sa.ForeignKey("artifact.digest"), nullable=False),
        sa.Column("feature_set_id", sa.Integer, sa.ForeignKey("feature_set.id"), nullable=False),
        sa.Column("num_parameters", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.UniqueConstraint("model_name", "number"),
        sa.UniqueConstraint("model_name", "run_id"),
    )
    op.create_table(
        "alias",
        sa.Column("model_name", sa.String, sa.ForeignKey("model.name"), primary_key=True),
        sa.Column("alias", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("updated_at", time, nullable=False),
    )
    op.create_table(
        "lineage",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version_id", sa.Integer, sa.ForeignKey("version.id"), nullable=False, index=True),
        sa.Column("relation", sa.String, nullable=False),
        sa.Column("value", sa.String, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", time, nullable=False),
        sa.Column("actor", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for action in ("update", "delete"):
            op.execute(
                f"create trigger audit_no_{action} before {action} on audit "
                "begin select raise(abort, 'the audit log is append-only'); end"
            )
    elif op.get_bind().dialect.name == "postgresql":
        op.execute(
            "create function audit_append_only() returns trigger language plpgsql as "
            "$$ begin raise exception 'the audit log is append-only'; end $$"
        )
        op.execute(
            "create trigger audit_append_only before update or delete on audit "
            "for each row execute function audit_append_only()"
        )
