"""Open the registry's database, migrated to this version of the code."""

from __future__ import annotations

import getpass
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlmodel import Session

from recstill.registry.address import check_artifacts_url, registry_address
from recstill.registry.artifacts import Artifacts
from recstill.registry.connecting import make_engine, reader_of
from recstill.registry.failures import in_words
from recstill.registry.models import AuditRow
from recstill.registry.schema import bring_up_to_date
from recstill.registry.traces import check_file, check_no_traces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from recstill.settings import Settings


class Registry:
    """A connection to the registry. Every write goes through `transaction`, whole or not at all.

    artifacts: where the files of its versions lie. is_new: this opening made the tables.
    """

    def __init__(self, engine: Engine, actor: str, artifacts: Artifacts, *, is_new: bool = False) -> None:
        self.engine, self.actor, self.artifacts, self.is_new = engine, actor, artifacts, is_new

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Give a session that commits at the end of the block and rolls back if it raises.

        It is the only writer from its beginning to its end, so what it reads stays true until it has written.
        """
        with in_words(self.engine.url), Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # begins now, not at the first statement
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that sees one moment of the registry, waits for nobody, and cannot write."""
        reader = reader_of(self.engine)
        with in_words(self.engine.url), Session(reader, expire_on_commit=False) as session, session.begin():
            yield session

    def audit(self, session: Session, action: str, subject: str, **details: Any) -> None:
        """Add a row to the audit log, inside the caller's transaction."""
        session.add(AuditRow(actor=self.actor, action=action, subject=subject, details=details))


def open_registry(settings: Settings, *, anew: bool = False) -> Registry:
    """Open the database at `settings.registry_url`, migrating it if needed, or making it where everything is new.

    anew: make it also where other files say that there was one. Raise RegistryError for a database that is lost, damaged,
    of something else or of a newer recstill.
    """
    url = registry_address(settings)
    check_artifacts_url(settings)
    if not anew:
        check_file(settings, url)
    engine = make_engine(url)
    with in_words(url):
        is_new = bring_up_to_date(engine, lambda: None if anew else check_no_traces(settings, url))
    return Registry(engine, _actor(), Artifacts(settings), is_new=is_new)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        return "unknown"
