"""Digests, and writes that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recstill.api.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SEAL = "sha256_of_all_above"


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, way_out: str) -> None:
    """Raise IntegrityError, naming the file and the way out, unless the file has this digest."""
    if not path.is_file():
        raise IntegrityError(f"{path} is missing. {way_out}")
    if (found := sha256_of(path)) != expected:
        raise IntegrityError(f"{path} was changed: sha256 {found[:12]}… instead of {expected[:12]}…. {way_out}")


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Make the error of a disk, or a quota, that is full say so, and name the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(errno.ENOSPC, "The disk is full; nothing was changed", str(path)) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True, default=str).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step. On a full disk the old one stays, and nothing is left over."""
    with naming_a_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def read_json(path: Path, way_out: str = "") -> Any:
    """Read a JSON file. Raise IntegrityError, naming it and the way out, if it is damaged."""
    return _parsed(path, path.read_bytes(), way_out)


def write_card(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object whose last entry is the digest of every byte before it."""
    body = json.dumps(value, indent=1, sort_keys=True, default=str).encode()[:-2]  # without the closing brace
    seal = f',\n "{_SEAL}": "{hashlib.sha256(body).hexdigest()}"\n}}'
    write_whole(path, body + seal.encode())


def read_card(path: Path, way_out: str = "") -> dict[str, Any]:
    """Read what `write_card` wrote. Raise IntegrityError, naming the file and the way out, if a bit of it was changed.

    Cards of earlier versions, which had no digest, are read too.
    """
    content = path.read_bytes()
    found = _parsed(path, content, way_out)
    if not isinstance(found, dict) or not found:
        raise IntegrityError(f"{path} is damaged: it holds no card. {way_out}".strip())
    name, value = list(found.items())[-1]
    is_digest = isinstance(value, str) and len(value) == 64
    if name == _SEAL or is_digest:
        body = content[: content.rfind(b",\n")]
        if name != _SEAL or hashlib.sha256(body).hexdigest() != value or not content.endswith(f'"{value}"\n}}'.encode()):
            raise IntegrityError(f"{path} was changed: its digest is not that of its content. {way_out}".strip())
        del found[name]
    return found


def _parsed(path: Path, content: bytes, way_out: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged: it is no JSON ({error}). {way_out}".strip()) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well; content-addressed, so a second writer is fine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with naming_a_full_disk(path):
            yield temporary
        temporary.chmod(0o755)
        if not path.exists():
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
