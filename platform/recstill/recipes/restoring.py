"""Bring back what `write_backup` wrote. Nothing of what is there is touched before every byte of the file is checked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recstill.api.errors import IntegrityError, RegistryError
from recstill.recipes.backup import FORMAT, MANIFEST, MANIFEST_DIGEST
from recstill.recipes.working import is_worked_on
from recstill.registry.address import database_file, registry_address
from recstill.registry.artifacts import Artifacts
from recstill.registry.connecting import make_engine
from recstill.registry.copying import copy_from_file, upgrade_file

if TYPE_CHECKING:
    from recstill.settings import Settings

_BLOCK = 1 << 20


def restore_backup(settings: Settings, path: Path, *, force: bool = False) -> dict[str, Any]:
    """Put a backup in the place of the home. force: what is there is moved aside, not deleted.

    Raise IntegrityError for a file that is cut or changed, RegistryError for a home or a database that is not empty.
    """
    home, file = settings.home, database_file(registry_address(settings))
    aside = _aside(settings, file, force)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.restore-") as folder:
        manifest = _unpack(path, Path(folder))
        new, registry = Path(folder) / "home", Path(folder) / "registry.db"
        new.mkdir(exist_ok=True)
        upgrade_file(registry)
        _name_new_home(registry, manifest["home"], str(home))
        if file is None:
            copy_from_file(registry, make_engine(registry_address(settings)))
        _put_artifacts(settings, Path(folder) / "artifacts", new)
        for old, moved in aside.items():
            old.rename(moved)
        if home.exists():
            home.rmdir()  # empty, or it would have been moved
        if file is not None and file.is_relative_to(home):
            _place(registry, new / file.relative_to(home))
        new.rename(home)
        if file is not None and not file.is_relative_to(home):
            _place(registry, file)
    return {
        "home": str(home),
        "written": manifest["written"],
        "files": len(manifest["files"]),
        "damaged": manifest["damaged"],
        "moved aside": [str(moved) for moved in aside.values()],
        "next": "recstill features apply" if manifest["home"] != str(home) else "recstill models verify",
    }


def _aside(settings: Settings, file: Path | None, force: bool) -> dict[Path, Path]:
    """Return what must be moved away, and where to. Raise RegistryError if that was not asked for, or cannot be."""
    home = settings.home
    found = [home] if home.exists() and any(home.iterdir()) else []
    if file is not None and not file.is_relative_to(home):
        found += [place for place in (file, Path(f"{file}-wal"), Path(f"{file}-shm")) if place.exists()]
    if not found:
        return {}
    if not force:
        raise RegistryError(
            f"{', '.join(map(str, found))} would be replaced. Name an empty RECSTILL_HOME, or move it aside with --force."
        )
    if os.path.ismount(home):
        raise RegistryError(f"{home} is a mount point and cannot be moved aside. Set RECSTILL_HOME to a folder in it.")
    busy = [folder.name for folder in sorted((home / "runs").glob("*")) if is_worked_on(folder)]
    if busy:
        raise RegistryError(f"Runs are being worked on in {home}: {', '.join(busy)}. Stop them first.")
    moment = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return {place: place.with_name(f"{place.name}.before-restore-{moment}") for place in found}


def _unpack(path: Path, folder: Path) -> dict[str, Any]:
    """Unpack a backup into a folder, checking every byte, and return its manifest."""
    way_out = "It was cut or changed: take another backup."
    try:
        with tarfile.open(path, mode="r:") as tar:
            members = {member.name: member for member in tar.getmembers()}
            manifest = _manifest(tar, members, path)
            names = set(members) - {MANIFEST, MANIFEST_DIGEST}
            if names != set(manifest["files"]) or "registry.db" not in names or len(members) != len(tar.getmembers()):
                raise IntegrityError(f"{path} holds other files than its manifest names. {way_out}")
            for name in sorted(names):
                digest = _extract(tar, members[name], folder / name, folder)
                if digest != manifest["files"][name]:
                    raise IntegrityError(f"{path}: {name} is not what was backed up. {way_out}")
    except FileNotFoundError as error:
        raise RegistryError(f"{error.filename or path} is missing.") from error
    except (tarfile.TarError, EOFError) as error:
        raise IntegrityError(f"{path} cannot be read as a backup ({error}). {way_out}") from error
    return manifest


def _manifest(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], path: Path) -> dict[str, Any]:
    if MANIFEST not in members or MANIFEST_DIGEST not in members:
        raise IntegrityError(f"{path} has no manifest: it is no backup of recstill, or it was cut.")
    content, expected = (_bytes_of(tar, members[name]) for name in (MANIFEST, MANIFEST_DIGEST))
    if hashlib.sha256(content).hexdigest().encode() != expected:
        raise IntegrityError(f"{path}: its manifest was changed. Take another backup.")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["format"] != FORMAT:
        raise RegistryError(f"{path} has format {manifest['format']}, this recstill reads {FORMAT}: upgrade recstill here.")
    return manifest


def _bytes_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, folder: Path) -> str:
    source = tar.extractfile(member) if member.isreg() else None
    if source is None or not target.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(f"{member.name} has no place in a backup.")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while data := source.read(_BLOCK):
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    target.chmod(member.mode & 0o777)
    return digest.hexdigest()


def _name_new_home(registry: Path, old: str, new: str) -> None:
    """Reports are known by their paths; those of the old home are now in the new one."""
    if old == new:
        return
    with closing(sqlite3.connect(registry)) as connection, connection:
        connection.execute(
            "update run set report = ? || substr(report, ?) where substr(report, 1, ?) = ?",
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )


def _put_artifacts(settings: Settings, found: Path, new_home: Path) -> None:
    is_own = settings.artifacts_url == str(settings.home / "artifacts")
    place = replace(settings, home=new_home, artifacts_url=str(new_home / "artifacts")) if is_own else settings
    artifacts = Artifacts(place)
    for folder in sorted(found.iterdir()) if found.is_dir() else ():
        if (folder / "manifest.json").is_file():
            artifacts.put(folder)


def _place(registry: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(registry, target)
