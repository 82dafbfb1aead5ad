"""What commands that were killed left behind, and the bentos that `recstill serve` made on its way."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from recstill.api.errors import IntegrityError
from recstill.data.files import read_card, write_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recstill.settings import Settings

MADE_BY = "recstill.json"
# As tempfile and the writers of this project name what becomes something else when it is whole.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}|\.new-[a-z0-9_]{8}|.+\.new|\..+\.deleted", re.ASCII)
_OTHERS = ("artifacts", "bentoml", "feast")  # what lies here is not named by us, or found by the store itself


def find_leftovers(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Yield what a killed command left in the home, and why it can go."""
    for folder, folders, files in os.walk(settings.home):
        if Path(folder) == settings.home:
            folders[:] = [name for name in folders if name not in (*_OTHERS, "tmp")]
        found = [name for name in (*folders, *files) if _TEMPORARY.fullmatch(name)]
        folders[:] = [name for name in folders if name not in found]
        for name in sorted(found):
            yield Path(folder) / name, "a command that was stopped was writing it"
    for where in ("tmp", "bentoml/tmp"):
        for path in sorted((settings.home / where).glob("*")):
            yield path, "a command that was stopped was packaging"
    for path in sorted((settings.home / "cache" / "vectors").glob("*.npy")):
        if not (settings.home / "online" / path.stem.partition("-")[2]).is_dir():
            yield path, "item vectors of features that are gone"


def old_bentos(settings: Settings) -> Iterator[tuple[Path, bool]]:
    """Yield the bentos that `recstill serve` made, and whether a server has them open."""
    for path in sorted((settings.home / "bentoml" / "bentos").glob(f"*/*/{MADE_BY}")):
        if _note_in(path.parent).get("made_by") == "serve":
            yield path.parent, _is_held(path)


def marked_bentos(settings: Settings, content: str) -> list[Path]:
    """Return the bentos that `recstill serve` made of this content."""
    return [folder for folder, _ in old_bentos(settings) if _note_in(folder).get("content") == content]


def _note_in(bento: Path) -> dict[str, Any]:
    try:
        return read_card(bento / MADE_BY)
    except IntegrityError:  # a bento that says no more that it is ours is left alone
        return {}


def mark_bento(bento: Path, content: str) -> None:
    """Note in a bento that `recstill serve` made it, and the digest of what it was made of."""
    write_card(bento / MADE_BY, {"made_by": "serve", "content": content})


def hold_bento(bento: Path) -> None:
    """Keep a bento that is served from being collected until this process, or what it becomes, ends."""
    if (bento / MADE_BY).is_file():
        os.utime(bento / MADE_BY)
        place = os.open(bento / MADE_BY, os.O_RDONLY)
        os.set_inheritable(place, True)
        fcntl.flock(place, fcntl.LOCK_SH)


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def delete_path(path: Path) -> None:
    """Delete a file or a folder; of a link, the link. BentoML's note of the latest bento goes with that bento."""
    if path.is_dir() and not path.is_symlink():
        latest = path.parent / "latest"
        if latest.is_file() and latest.read_text().strip() == path.name:
            latest.unlink()
        shutil.rmtree(path)
    else:
        path.unlink()


def age_of(path: Path) -> timedelta:
    """Return how long nothing in a file or folder was changed."""
    return timedelta(seconds=time() - max(one.lstat().st_mtime for one in _all_of(path)))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(one.lstat().st_size for one in _all_of(path) if not one.is_dir())


def _all_of(path: Path) -> list[Path]:
    return [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
