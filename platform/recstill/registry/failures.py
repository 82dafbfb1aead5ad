"""What a database's error means, and what to do about it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from recstill.api.errors import RegistryError
from recstill.registry.address import shown, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

BUSY_SECONDS = 30

_BUSY = f"is busy: another process has been writing to it for more than {BUSY_SECONDS} s. Nothing was changed; call again."
_FULL = "cannot be written: its disk is full. Nothing was changed; free some space and call again."
_READ_ONLY = (
    "cannot be written: the file, its folder or the server is read-only. Reading works; what writes needs the permission."
)
_DAMAGED = "is damaged or no database ({}). Bring it back from a backup: `recstill restore FILE`."
_LACKS = "lacks a table that its schema should have ({}). Bring it back from a backup: `recstill restore FILE`."
_DISK = "cannot be read or written ({}): its disk is full or broken. Nothing was changed; free some space and call again."
_NOT_OPENED = "cannot be opened ({}). Check that its folder exists and may be read and written, and RECSTILL_REGISTRY_URL."
_UNREACHABLE = "cannot be reached: {} Check RECSTILL_REGISTRY_URL, and the server."
_RIGHTS = "refuses its user: {} Grant it the right to read, write and create tables."
_AGAIN = "was changed by another process at the same time ({}). Nothing was changed here; call again."

# The first entry whose key begins the database's own code counts.
_SQLITE = {
    "SQLITE_BUSY": _BUSY, "SQLITE_LOCKED": _BUSY, "SQLITE_FULL": _FULL, "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_CORRUPT": _DAMAGED, "SQLITE_NOTADB": _DAMAGED, "SQLITE_IOERR": _DISK, "SQLITE_CANTOPEN": _NOT_OPENED,
    "SQLITE_PERM": _NOT_OPENED, "SQLITE_PROTOCOL": _BUSY,
}  # fmt: skip
_POSTGRES = {
    "55P03": _BUSY, "53100": _FULL, "25006": _READ_ONLY, "40001": _AGAIN, "40P01": _AGAIN, "42501": _RIGHTS,
    "42P01": _LACKS, "08": _UNREACHABLE, "28": _UNREACHABLE, "3D": _UNREACHABLE, "53": _UNREACHABLE, "57": _UNREACHABLE,
}  # fmt: skip


@contextmanager
def in_words(url: URL) -> Iterator[None]:
    """Turn what the database itself complains of into a RegistryError with a way out.

    A broken rule of the tables (a constraint, a trigger) is left as it is: that is a fault of the caller.
    """
    try:
        yield
    except DBAPIError as error:
        words = _words(error)
        if words is None:
            raise
        reason = " ".join(without_secrets(str(error.orig), url).split())
        raise RegistryError(f"The registry at {shown(url)} {words.format(reason)}") from error
    except UnicodeEncodeError as error:
        raise RegistryError(f"{error.object!r} is no valid UTF-8: the registry cannot look for it or keep it.") from error


def _words(error: DBAPIError) -> str | None:
    name, state = getattr(error.orig, "sqlite_errorname", None), getattr(error.orig, "sqlstate", None)
    if isinstance(name, str):
        if "no such table" in str(error.orig):
            return _LACKS
        return _first(_SQLITE, name)
    if isinstance(state, str):
        return _first(_POSTGRES, state)
    # Without a code, it is about the connection: no server, a wrong option, a line that was cut.
    return _UNREACHABLE if "psycopg" in type(error.orig).__module__ else None


def _first(table: dict[str, str], code: str) -> str | None:
    return next((words for begin, words in table.items() if code.startswith(begin)), None)
