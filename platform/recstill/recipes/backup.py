"""Write everything that an installation knows into one file, while it is in use.

The file is a tar: `registry.db`, `artifacts/DIGEST/…`, `home/…`, and at its end `manifest.json`, which has the sha256 of every
member, and `manifest.sha256`. The registry comes first, as it was at one moment; versions, snapshots and signals that it names
are there already and never change. What is added later is not of that moment, and does no harm.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from recstill import __version__
from recstill.api.errors import RegistryError
from recstill.recipes.release import verify_versions
from recstill.registry.copying import copy_sqlite, copy_to_file
from recstill.registry.schema import HEAD
from recstill.registry.versions import list_versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recstill.recipes.platform import Platform

FORMAT = 1
MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
# Bentos are packaged again from artifacts; locks and logs are of processes that will not be there.
_NOT_KEPT = {"bentoml", "locks", "logs", "artifacts"}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SQLITE_MAGIC = b"SQLite format 3\0"


def write_backup(platform: Platform, path: Path, *, with_damage: bool = False) -> dict[str, Any]:
    """Write a backup and return what is in it. Raise RegistryError for a version whose files are damaged, unless
    `with_damage`: it is then kept as it is, and named."""
    path, home = path.expanduser().resolve(), platform.settings.home
    if path.exists():
        raise RegistryError(f"{path} exists already. Name a new file: a backup is not overwritten.")
    if path.is_relative_to(home):
        raise RegistryError(f"{path} lies in {home}, which is what would be lost. Name a file elsewhere.")
    damaged = [row["version"] for row in verify_versions(platform, None) if row["state"] != "ok"]
    if damaged and not with_damage:
        raise RegistryError(
            f"{', '.join(damaged)}: the artifact is damaged or missing (`recstill models verify`). Restore it, or back up "
            "what is there with --with-damage."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            counts = _write(platform, file, damaged, with_damage=with_damage)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return {"backup": str(path), "bytes": path.stat().st_size, **counts, "damaged": damaged}


def _write(platform: Platform, file: BinaryIO, damaged: list[str], *, with_damage: bool) -> dict[str, int]:
    settings, home = platform.settings, platform.settings.home
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        writer = _Writer(tar, Path(folder), damaged if with_damage else None)
        registry = Path(folder) / "registry.db"
        copy_to_file(platform.registry, registry)
        writer.add("registry.db", registry)
        # The ends of the decision logs: what is in a log by the time it is copied reaches at least so far.
        for path in sorted((home / "decision-heads").glob("*.head")):
            writer.add(f"home/{path.relative_to(home)}", path)
        with platform.registry.read() as session:
            stored = {version.artifact for version in list_versions(session)}
        for digest in sorted(stored):
            if platform.artifacts.has(digest):
                for path in sorted(platform.artifacts.get(digest).iterdir()):
                    writer.add(f"artifacts/{digest}/{path.name}", path)
        for path in _kept(home):
            writer.add(f"home/{path.relative_to(home)}", path)
        manifest = {
            "format": FORMAT, "recstill": __version__, "schema": HEAD, "home": str(home), "damaged": damaged,
            "written": datetime.now(UTC).isoformat(), "own_registry": settings.registry_url == settings.own_registry_url,
            "files": writer.digests,
        }  # fmt: skip
        content = json.dumps(manifest, indent=1, sort_keys=True).encode()
        _add_bytes(tar, MANIFEST, content)
        _add_bytes(tar, MANIFEST_DIGEST, hashlib.sha256(content).hexdigest().encode())
    return {"artifacts": len(stored), "files": len(writer.digests)}


class _Writer:
    """Adds files to a tar, noting their digests. A database is copied as of one moment, an appended log as far as it is.

    damaged: takes the paths of damaged databases, which are then kept byte by byte; None if there must be none.
    """

    def __init__(self, tar: tarfile.TarFile, scratch: Path, damaged: list[str] | None) -> None:
        self.digests: dict[str, str] = {}
        self._tar, self._scratch, self._damaged = tar, scratch, damaged

    def add(self, name: str, path: Path) -> None:
        if name in self.digests:
            return
        with suppress(FileNotFoundError), path.open("rb") as file:  # collected as garbage since it was listed
            if file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC and path.parent != self._scratch:
                copy = self._copied(path)
                if copy is not None:
                    with copy.open("rb") as copied:
                        self._add_open(name, path, copied)
                    return
            file.seek(0)
            self._add_open(name, path, file)

    def _copied(self, path: Path) -> Path | None:
        """Return a copy of a database of one moment; None for a damaged one. Raise RegistryError if there must be none."""
        copy = self._scratch / "copy.db"
        copy.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source:
                copy_sqlite(source, copy)
        except (sqlite3.DatabaseError, RegistryError) as error:
            is_damage = isinstance(error, RegistryError) or error.sqlite_errorcode & 0xFF in _DAMAGED
            if not is_damage:
                raise
            if self._damaged is None:
                raise RegistryError(
                    f"{path} is a damaged database: {error}. Restore it, delete it if it can be made again, or back up what is "
                    "there with --with-damage."
                ) from error
            self._damaged.append(str(path))
            return None
        return copy

    def _add_open(self, name: str, path: Path, file: BinaryIO) -> None:
        info = self._tar.gettarinfo(arcname=name, fileobj=file)
        info.type, info.linkname, info.mode = tarfile.REGTYPE, "", path.stat().st_mode & 0o777
        info.size = os.fstat(file.fileno()).st_size
        info.uname = info.gname = ""
        info.uid = info.gid = 0
        hashing = _Hashing(file)
        try:
            self._tar.addfile(info, hashing)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno is None:  # tarfile's own word for a file that ended too early
                raise RegistryError(f"{path} became shorter while it was copied. Call again.") from error
            raise
        self.digests[name] = hashing.digest.hexdigest()


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _kept(home: Path) -> Iterator[Path]:
    """Yield the files of a home that a backup keeps. Names that begin with a dot are writes that were not finished."""
    seen = set()
    for place, folders, names in os.walk(home, followlinks=True):
        folder = Path(place)
        seen.add(folder.resolve())
        hidden = _NOT_KEPT if folder == home else set()
        folders[:] = sorted(
            name for name in folders
            if name[0] != "." and name not in hidden and (folder / name).resolve() not in seen
        )  # fmt: skip
        for name in sorted(names):
            is_beside = name.endswith((".lock", "-wal", "-shm", "-journal"))
            is_registry = folder == home and name == "registry.db"
            if name[0] != "." and not is_beside and not is_registry and (folder / name).is_file():
                yield folder / name


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    tar.addfile(info, io.BytesIO(content))
