"""Versions of the packed features in one folder: their order, and which of them must stay.

Names begin with a number that only grows, whatever the clock says. A server holds the version that it reads with a lock on
its `online.json`; the kernel lets go of it when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import shutil
from typing import TYPE_CHECKING

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

CARD = "online.json"
_NUMBER = re.compile(r"v(\d+)-")
_KEEP = 3


def versions(root: Path) -> list[Path]:
    """Return the whole versions below `root`, oldest first; those of before they were numbered come first, by name."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if not path.name.startswith(".") and (path / CARD).is_file()]
    return sorted(found, key=lambda path: (_number(path), path.name))


def next_name(root: Path) -> str:
    """Name a version after all that are there; two that are made at once differ in their ending."""
    known = [_number(path) for path in root.iterdir()] if root.is_dir() else []
    return f"v{max(known, default=0) + 1:08d}-{secrets.token_hex(4)}"


def standing(wanted: Path, own: Path) -> list[Path]:
    """Return what can be served where `wanted` was asked for: itself, or, once it is gone, the newest first, then `own`."""
    if (wanted / CARD).is_file():
        return [wanted]
    beside = [] if wanted == own else versions(wanted.parent)[::-1]
    return [path for path in (*beside, own) if (path / CARD).is_file()]


def hold(version: Path) -> IO[bytes]:
    """Keep a version from being deleted for as long as the returned file is open, in this process or one that inherits it.

    Raise FeatureError if the version is not there (any more).
    """
    gone = FeatureError(f"{version} holds no online features. Run `recstill features materialize`.")
    try:
        file = (version / CARD).open("rb")
    except OSError as error:
        raise gone from error
    fcntl.flock(file, fcntl.LOCK_SH)
    if not (version / CARD).is_file():  # deleted while we waited for the lock
        file.close()
        raise gone
    return file


def prune(root: Path, current: Path) -> None:
    """Delete old versions, but for the newest few, the current one and those that a server holds; and what was left half-made.

    Call it with the lock of materializing: every temporary folder is then one that a killed process left.
    """
    for left in root.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    for old in versions(root)[:-_KEEP]:
        if old != current:
            _delete(old)


def _delete(version: Path) -> None:
    with (version / CARD).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # a server reads it
        aside = version.with_name(f".{version.name}.deleted")
        version.rename(aside)  # gone at once for whoever looks now
        shutil.rmtree(aside)


def _number(path: Path) -> int:
    match = _NUMBER.match(path.name.lstrip("."))
    return int(match[1]) if match else 0
