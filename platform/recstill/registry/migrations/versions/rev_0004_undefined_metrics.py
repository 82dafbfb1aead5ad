"""A metric may be undefined: null, with the reason. What a version is beside: its run's baselines. Trials that failed."""

import json
import math

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BEFORE = "it was not a number when it was stored"


def upgrade() -> None:
    with op.batch_alter_table("metric") as table:
        table.alter_column("value", existing_type=sa.Float, nullable=True)
        table.add_column(sa.Column("reason", sa.String, nullable=False, server_default=""))
    op.add_column("version", sa.Column("undefined", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("version", sa.Column("baselines", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("trial", sa.Column("error", sa.String, nullable=False, server_default=""))
    _say_why()


def _say_why() -> None:
    """Turn the NaN that SQLite let into the JSON of earlier rows into null with a reason."""
    connection = op.get_bind()
    for row in connection.execute(sa.text("select id, cast(metrics as text) from version")).fetchall():
        metrics = json.loads(row[1])
        wrong = [name for name, value in metrics.items() if value is None or not math.isfinite(value)]
        if wrong:
            values = {"metrics": json.dumps({**metrics, **dict.fromkeys(wrong)}),
                      "undefined": json.dumps(dict.fromkeys(wrong, _BEFORE)), "id": row[0]}  # fmt: skip
            connection.execute(sa.text("update version set metrics = :metrics, undefined = :undefined where id = :id"), values)
    for row in connection.execute(sa.text("select id, cast(scores as text) from trial")).fetchall():
        scores = json.loads(row[1])
        if any(score is None or not math.isfinite(score) for score in scores):
            values = {"scores": json.dumps([s if s is not None and math.isfinite(s) else None for s in scores]), "id": row[0],
                      "error": "a validation score was not a number"}  # fmt: skip
            connection.execute(
                sa.text("update trial set state = 'failed', scores = :scores, error = :error where id = :id"), values
            )
