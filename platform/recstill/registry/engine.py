"""Open the registry's database, migrated to this version of the code."""

from __future__ import annotations

import getpass
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session

from recstill.api.errors import RegistryError
from recstill.registry.models import AuditRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recstill.settings import Settings

HEAD = "0004"


class Registry:
    """A connection to the registry. Every write goes through `transaction`, whole or not at all."""

    def __init__(self, engine: Engine, actor: str) -> None:
        self.engine, self.actor = engine, actor

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Give a session that commits at the end of the block and rolls back if it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def audit(self, session: Session, action: str, subject: str, **details: Any) -> None:
        """Add a row to the audit log, inside the caller's transaction."""
        session.add(AuditRow(actor=self.actor, action=action, subject=subject, details=details))


def open_registry(settings: Settings) -> Registry:
    """Open the database at `settings.registry_url`, creating or migrating it if needed."""
    engine = _engine(settings)
    try:
        if _revision(engine) != HEAD:
            settings.home.mkdir(parents=True, exist_ok=True)
            with FileLock(settings.home / "registry.lock"):
                if _revision(engine) != HEAD:
                    _migrate(engine)
    except DatabaseError as error:
        raise RegistryError(
            f"The registry at {engine.url.render_as_string(hide_password=True)} cannot be opened: {error.orig}. "
            "Check RECSTILL_REGISTRY_URL, or restore the file from a backup."
        ) from error
    return Registry(engine, _actor())


def _engine(settings: Settings) -> Engine:
    url = settings.registry_url
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 would begin a deferred transaction; we begin our own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # Taking the write lock at once makes "read the highest version, add one" safe across processes.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return str(connection.execute(text("select version_num from alembic_version")).scalar())


def _migrate(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        return "unknown"
