"""Connections to the registry's database: one writer at a time, readers that lock nothing.

A writer takes the database's write lock when its transaction begins: BEGIN IMMEDIATE in SQLite, an advisory lock in
PostgreSQL. What it reads is then what it writes upon ("the highest number, plus one", "the champion that was judged against"),
with many processes too. A reader sees one moment of the database, takes no lock, and cannot write.
"""

from __future__ import annotations

import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import Engine, NullPool, create_engine, event

from recstill.api.errors import RegistryError
from recstill.registry.address import database_file, shown
from recstill.registry.failures import BUSY_SECONDS

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

_LOCK = int.from_bytes(b"recstill", "big")
_READS = "recstill_reads"


def make_engine(url: URL) -> Engine:
    """Return the engine of a registry; its connections begin as writers."""
    file = database_file(url)
    if file is not None:
        return _sqlite_engine(url, file)
    try:
        engine = create_engine(url, pool_pre_ping=True)
    except ImportError:
        raise RegistryError(f"The registry at {shown(url)} needs psycopg: pip install 'recstill[postgres]'.") from None
    event.listen(engine, "begin", _begin_postgres)
    return engine


def reader_of(engine: Engine) -> Engine:
    """Return the same engine for reading."""
    return engine.execution_options(**{_READS: True})


def may_write(file: Path) -> bool:
    """Say whether a database file can be written, or made; its folder too, where SQLite keeps its log."""
    place = file.parent
    while not place.exists():
        place = place.parent
    return os.access(place, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))


def _sqlite_engine(url: URL, file: Path) -> Engine:
    if may_write(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, creator=partial(_open_sqlite, file))
    else:
        # A new connection each time: whether the log is there is looked at when it opens.
        engine = create_engine(url, creator=partial(_open_read_only, file), poolclass=NullPool)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _open_sqlite(file: Path) -> sqlite3.Connection:
    # isolation_level: sqlite3 would begin a deferred transaction; we begin our own.
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _keep_a_log(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log. SQLite does not wait when several processes switch at once, so we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _open_read_only(file: Path) -> sqlite3.Connection:
    log = Path(f"{file}-wal")
    # Without a log nobody is writing, and SQLite need not make its shared memory beside the file, which it cannot here.
    is_settled = not log.exists() or log.stat().st_size == 0
    options = "mode=ro&immutable=1" if is_settled else "mode=ro"
    return sqlite3.connect(
        f"file:{quote(str(file))}?{options}", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _begin_sqlite(connection: Connection) -> None:
    reads = _reads(connection)
    connection.exec_driver_sql(f"PRAGMA query_only={int(reads)}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _begin_postgres(connection: Connection) -> None:
    if _reads(connection):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _reads(connection: Connection) -> Any:
    return connection.get_execution_options().get(_READS, False)
