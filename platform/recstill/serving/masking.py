"""Ids in logs, masked with a key."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any

from recstill.api.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

KEY_FILE = "mask.key"


class Hmac:
    """HMAC-SHA256 (RFC 2104) with a key that is prepared once: half the time of `hmac.digest`, twice per decision."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def hex(self, message: bytes) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.hexdigest()


def mask(subject: Any, key: Hmac) -> str:
    """Return what stands for an id in logs: the same for the same id, and of no use without the key."""
    return key.hex(str(subject).encode())[:24]


def key_id(key: bytes) -> str:
    """Return a name of a key, which does not give it away."""
    return hashlib.sha256(b"recstill key " + key).hexdigest()[:12]


def make_key(folder: Path) -> bytes:
    """Return the key of a decision log, made now if nothing was logged there before. Raise BundleError if it is lost."""
    if os.environ.get("RECSTILL_MASK_KEY") or (folder / KEY_FILE).is_file():
        return read_key(folder)
    if any(folder.glob("*.jsonl")):
        raise BundleError(
            f"{folder} holds decisions, but their key {KEY_FILE} is gone: with another key the same person would look like "
            "two. Restore it from a backup, set RECSTILL_MASK_KEY, or move the old logs to another folder."
        )
    temporary = folder / f".{KEY_FILE}.{secrets.token_hex(4)}.new"
    place = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(place, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, folder / KEY_FILE)  # unlike a rename, never over the key of a worker that started at the same time
    except FileExistsError:
        return read_key(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return read_key(folder)


def read_key(folder: Path) -> bytes:
    """Return the key of a decision log. Raise BundleError if there is none."""
    if given := os.environ.get("RECSTILL_MASK_KEY"):
        return given.encode()
    if not (folder / KEY_FILE).is_file():
        raise BundleError(f"{folder} has no {KEY_FILE}: no decision was logged there yet, or its key was moved.")
    key = (folder / KEY_FILE).read_bytes()
    if not key:
        raise BundleError(f"{folder / KEY_FILE} is empty. Restore it from a backup.")
    return key


def known_keys(folder: Path) -> dict[str, bytes]:
    """Return the keys at hand by their id, the one in use first: RECSTILL_MASK_KEY, then every *.key beside the log."""
    given = os.environ.get("RECSTILL_MASK_KEY", "").encode()
    files = sorted(folder.glob("*.key"), key=lambda path: path.name != KEY_FILE)
    keys = [given, *(path.read_bytes() for path in files)]
    return {key_id(key): key for key in keys if key}
