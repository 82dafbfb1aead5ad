"""Two more ways around an audit log that is only added to: a row put in another's place, and a table emptied."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # `insert or replace` deletes without firing the trigger on deletes.
        op.execute(
            "create trigger audit_no_replace before insert on audit when exists (select 1 from audit where id = new.id) "
            "begin select raise(abort, 'the audit log is append-only'); end"
        )
    elif op.get_bind().dialect.name == "postgresql":
        op.execute(
            "create trigger audit_no_truncate before truncate on audit for each statement execute function audit_append_only()"
        )
