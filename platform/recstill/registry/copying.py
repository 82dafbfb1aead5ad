"""A registry as one SQLite file, whatever it lies in, and back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, func, insert, select, text
from sqlmodel import SQLModel

from recstill.api.errors import RegistryError
from recstill.registry.connecting import make_engine, reader_of
from recstill.registry.failures import in_words
from recstill.registry.schema import bring_up_to_date

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.registry.engine import Registry

_ROWS_AT_ONCE = 1000


def copy_to_file(registry: Registry, file: Path) -> None:
    """Write the registry of one moment, changes in SQLite's log included, into a new SQLite file, and check it."""
    with in_words(registry.engine.url):
        if registry.engine.dialect.name == "sqlite":
            with closing(registry.engine.raw_connection()) as source:
                connection = source.driver_connection
                assert isinstance(connection, sqlite3.Connection)
                copy_sqlite(connection, file)
            return
        target = _engine_of(file)
        bring_up_to_date(target, lambda: None)
        with reader_of(registry.engine).connect() as reader, target.begin() as writer:
            _copy_rows(reader, writer)
        target.dispose()


def copy_sqlite(source: sqlite3.Connection, file: Path) -> None:
    """Copy any SQLite database of one moment into a new file. Raise RegistryError if it is damaged."""
    with closing(sqlite3.connect(file)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        state = target.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if state != "ok":
        raise RegistryError(f"The database that {file.name} is copied from is damaged: {state}.")


def copy_from_file(file: Path, engine: Engine) -> None:
    """Put the rows of such a file into an empty registry on a server. Raise RegistryError if it is not empty.

    The file is migrated first. Everything is written in one transaction.
    """
    source = _engine_of(file)
    bring_up_to_date(source, lambda: None)
    with in_words(engine.url):
        bring_up_to_date(engine, lambda: None)
        with engine.begin() as connection, reader_of(source).connect() as reader:
            for table in SQLModel.metadata.sorted_tables:
                if connection.execute(select(func.count()).select_from(table)).scalar():
                    raise RegistryError(f"The registry is not empty: table {table.name} has rows. Name an empty database.")
            _copy_rows(reader, connection)
            _go_on_counting(connection)
    source.dispose()


def upgrade_file(file: Path) -> None:
    """Migrate a registry file. Raise RegistryError if it is none, or of a newer recstill."""
    engine = _engine_of(file)
    with in_words(engine.url):
        bring_up_to_date(engine, lambda: None)
    engine.dispose()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _engine_of(file: Path) -> Engine:
    return make_engine(URL.create("sqlite", database=str(file)))


def _copy_rows(source: Connection, target: Connection) -> None:
    for table in SQLModel.metadata.sorted_tables:
        for rows in source.execute(select(table)).mappings().partitions(_ROWS_AT_ONCE):
            target.execute(insert(table), [{name: _in_utc(value) for name, value in row.items()} for row in rows])


def _in_utc(value: Any) -> Any:
    """SQLite keeps no zone: what it gives is UTC, and what it gets must be."""
    if not isinstance(value, datetime):
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _go_on_counting(connection: Connection) -> None:
    """Rows came with their ids; PostgreSQL's counters have not seen them."""
    for table in SQLModel.metadata.sorted_tables:
        if "id" not in table.columns:
            continue
        counter = connection.execute(text("select pg_get_serial_sequence(:name, 'id')"), {"name": table.name}).scalar()
        if counter and (highest := connection.execute(select(func.max(table.c.id))).scalar()):
            connection.execute(text("select setval(:counter, :highest)"), {"counter": counter, "highest": highest})
