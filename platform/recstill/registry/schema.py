"""The state of a registry's tables, and bringing them up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from recstill.api.errors import RegistryError
from recstill.registry.address import shown
from recstill.registry.connecting import reader_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

_MIGRATIONS = Path(__file__).parent / "migrations"
# Taken from the files' names: importing Alembic takes longer than most commands.
HEAD = max(path.name.split("_")[1] for path in (_MIGRATIONS / "versions").glob("rev_*.py"))
_OURS = {"plugin", "run", "model", "version", "alias", "audit"}


def bring_up_to_date(engine: Engine, check_new: Callable[[], None]) -> bool:
    """Make or migrate the tables; return whether the registry is new. One process does it, others wait for it.

    check_new: called before a registry is made where there is none; raises where there should be one.
    """
    with reader_of(engine).connect() as connection:
        if revision_of(connection, engine.url) == HEAD:
            return False
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        if connection.dialect.name == "sqlite":
            # Altering a table in SQLite makes it anew, and others point at it. Not possible within a transaction.
            driver.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
        with connection.begin():
            before = revision_of(connection, engine.url)  # again, now that nobody else writes
            if before is None:
                check_new()
            if before != HEAD:
                _migrate(connection)
    engine.dispose()  # connections of before check no foreign keys
    return before is None


def revision_of(connection: Connection, url: URL) -> str | None:
    """Return the revision of the tables; None where there is no table at all.

    Raise RegistryError for the tables of something else, and for those of a newer recstill.
    """
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if not tables >= _OURS | {"alembic_version"}:
        raise RegistryError(
            f"The database at {shown(url)} is no registry of recstill: it holds {_some(tables)}. "
            "Name another database, or an empty one, in RECSTILL_REGISTRY_URL; or bring a damaged registry back from a "
            "backup: `recstill restore FILE`."
        )
    revision = connection.execute(text("select version_num from alembic_version")).scalar()
    if revision is None or not str(revision).isdigit():
        raise RegistryError(f"The registry at {shown(url)} has lost its revision. Bring it back: `recstill restore FILE`.")
    if str(revision) > HEAD:
        raise RegistryError(
            f"The registry at {shown(url)} was made by a newer recstill (schema {revision}, this one knows {HEAD}): "
            "upgrade recstill here."
        )
    return str(revision)


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
        raise RegistryError(f"{len(broken)} rows of the registry point at nothing after the migration; it was not changed.")


def _some(tables: set[str]) -> str:
    names = sorted(tables)
    return f"the tables {', '.join(names[:5])}" + (" …" if len(names) > 5 else "")
