"""The registry's address: read, checked, and shown without what is secret in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from recstill.api.errors import RegistryError

if TYPE_CHECKING:
    from recstill.settings import Settings

_WAY_OUT = (
    "Write sqlite:////FOLDER/FILE.db or postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
    "and in a password %40 for @, %2F for /, %3A for :, %3F for ?, %23 for # and %25 for %."
)
_POSTGRES = ("postgres", "postgresql", "postgresql+psycopg")


def registry_address(settings: Settings) -> URL:
    """Return where the registry is. Raise RegistryError, which never repeats a password, for what cannot be one."""
    if settings.registry_url == settings.own_registry_url:
        # Built from its parts: a '?' in the path of the home would begin options if it were parsed.
        return URL.create("sqlite", database=str(settings.own_registry))
    try:
        url = make_url(settings.registry_url)
    except (ArgumentError, ValueError):  # their texts repeat the address
        raise RegistryError(f"RECSTILL_REGISTRY_URL is no address of a database. {_WAY_OUT}") from None
    if url.drivername in _POSTGRES:
        return _postgres(url.set(drivername="postgresql+psycopg"))
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(url)
    if url.get_backend_name() == "postgresql":
        raise RegistryError("RECSTILL_REGISTRY_URL: PostgreSQL is reached through psycopg. Write postgresql://…")
    raise RegistryError(
        f"RECSTILL_REGISTRY_URL: the registry lies in SQLite or PostgreSQL, not in {url.drivername!r}. {_WAY_OUT}"
    )


def check_artifacts_url(settings: Settings) -> None:
    """Raise RegistryError if RECSTILL_ARTIFACTS_URL names a kind of store that is not known, or not installed."""
    try:
        fsspec.core.url_to_fs(settings.artifacts_url)
    except (ValueError, ImportError) as error:  # their texts name the protocol or the package, never the address
        raise RegistryError(
            f"RECSTILL_ARTIFACTS_URL cannot be used: {error}. Write a folder, or the address of a store that fsspec reaches."
        ) from None


def database_file(url: URL) -> Path | None:
    """Return the file of a registry in SQLite; None for a server."""
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def shown(url: URL) -> str:
    """Return the address for people: passwords are left out, also those among the options."""
    open_options = {name: value for name, value in url.query.items() if "pass" not in name.lower()}
    return url.set(query=open_options).render_as_string(hide_password=True)


def without_secrets(text: str, url: URL) -> str:
    """Return a text, such as a driver's error, with every secret of the address replaced by ***."""
    options = [value for name, value in url.query.items() if "pass" in name.lower()]
    for secret in [url.password, *options]:
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "***")
    return text


def _postgres(url: URL) -> URL:
    if "@" in (url.host or ""):
        raise RegistryError(f"RECSTILL_REGISTRY_URL: the password holds a bare '@'. {_WAY_OUT}")
    return url


def _sqlite(url: URL) -> URL:
    if url.query:
        raise RegistryError(
            "RECSTILL_REGISTRY_URL: a '?' begins options, and a registry in SQLite takes none; leave it unset for the "
            f"file in RECSTILL_HOME, or name a path without '?'. {_WAY_OUT}"
        )
    if url.host or not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise RegistryError(f"RECSTILL_REGISTRY_URL: a registry in SQLite is a file. {_WAY_OUT}")
    return url.set(database=str(Path(url.database).expanduser().resolve()))
