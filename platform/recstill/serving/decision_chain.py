"""The parts of the decision log's format that its writer and its verifier share: signed lines, and the heads of lanes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from recstill.serving.masking import Hmac

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAC = b',"mac":"'
_TAIL = len(_MAC) + 64 + 2  # of a line: the HMAC, a quote and a brace
_SLOT = 512  # bytes of each of the two places in a head file, of which one is whole at any moment
_SYNC_EVERY = 64  # requests between two syncs of a head; a process that dies loses none, a machine that does loses these


@dataclass(frozen=True)
class Place:
    """Where a log ends: after so many lines and bytes of a file; last: the HMAC of the last line."""

    file: str
    lines: int
    size: int
    last: str

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "lines": self.lines, "size": self.size, "last": self.last}


def heads_folder(decisions: Path) -> Path:
    """Return where the ends of a log's lanes are kept: RECSTILL_DECISION_HEADS, else a folder beside the log."""
    return Path(os.environ.get("RECSTILL_DECISION_HEADS") or decisions.parent / "decision-heads")


def chain_key(key: bytes) -> Hmac:
    """Derive the key of the chain from the key that masks ids."""
    return Hmac(Hmac(key).hex(b"recstill decision log").encode())


def sign(content: dict[str, Any], before: str, key: Hmac) -> tuple[bytes, str]:
    """Return the line of a content that follows the line with the HMAC `before`, and its own HMAC."""
    body = orjson.dumps(content)[:-1]
    mac = key.hex(before.encode() + body)
    return body + _MAC + mac.encode() + b'"}\n', mac


def unsign(line: bytes, before: str, key: Hmac) -> dict[str, Any] | None:
    """Return the content of a line with its `mac`, or None if it is not what was signed after `before`."""
    body, mac = line[: -_TAIL - 1], line[-67:-3].decode(errors="replace")
    expected = key.hex(before.encode() + body)
    if line != body + _MAC + expected.encode() + b'"}\n' or mac != expected:
        return None
    content: dict[str, Any] = orjson.loads(line)
    return content


class Head:
    """The file that says where a lane ends. It is written in place, in two slots by turns, so that it needs no space on a full
    disk and a torn write leaves the one before. Whoever holds it has it locked; the lock ends with the process."""

    def __init__(self, path: Path, key: Hmac) -> None:
        """Raise BlockingIOError if another worker holds it."""
        self.key, self.turn = key, 0
        self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(self._file.fileno()).st_size < 2 * _SLOT:
            path.chmod(0o600)
            self._file.truncate(0)
            self._file.write(b"\0" * 2 * _SLOT)
            os.fsync(self._file.fileno())

    def write(self, place: Place, *, sync: bool = False) -> None:
        self.turn += 1
        line, _ = sign({"turn": self.turn, **place.to_json()}, "head", self.key)
        os.pwrite(self._file.fileno(), line.ljust(_SLOT, b"\0"), self.turn % 2 * _SLOT)
        if sync or self.turn % _SYNC_EVERY == 0:
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_head(path: Path, keys: Sequence[Hmac]) -> tuple[Place | None, int, bool]:
    """Return where a lane ends, the turn of that entry, and whether every byte of the file is as it was written."""
    content = path.read_bytes()
    found: list[tuple[int, Place]] = []
    whole = len(content) == 2 * _SLOT
    for slot in (content[:_SLOT], content[_SLOT:]):
        line = slot.rstrip(b"\0")
        entry = next((entry for key in keys if line and (entry := unsign(line, "head", key))), None)
        if entry is not None:
            found.append((entry["turn"], Place(entry["file"], entry["lines"], entry["size"], entry["last"])))
        whole = whole and (entry is not None or not line)
    turn, place = max(found, key=lambda pair: pair[0], default=(0, None))
    return place, turn, whole


def lines_after(path: Path, size: int) -> Iterator[bytes]:
    """Yield the lines of a file after so many bytes, the last perhaps without its end; none if there is no file."""
    if path.is_file():
        with path.open("rb") as file:
            file.seek(size)
            yield from file


def older_decision(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line of format 1, or None if it is none."""
    try:
        content = orjson.loads(line)
        texts = [
            content[name] for name in ("before", "request", "task", "model_version", "subject", "band", "decision", "time")
        ]
        datetime.fromisoformat(content["time"])
        is_whole = all(isinstance(text, str) for text in texts) and isinstance(content["score"], float | int)
    except (ValueError, TypeError, KeyError):
        return None
    return dict(content) if is_whole else None


def last_digest(path: Path) -> str:
    """Return what a line of format 1 that follows a file's last whole line says of it."""
    last = b""
    for line in lines_after(path, 0):
        if line.endswith(b"\n"):
            last = line[:-1]
    return hashlib.sha256(last).hexdigest() if last else ""


def write_whole(file: int, data: bytes) -> None:
    """Write all bytes. Raise OSError if some did not fit; the caller takes back those that did."""
    while data:
        data = data[os.write(file, data) :]


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
