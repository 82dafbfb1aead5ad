"""What a user is told when a command fails: one `Error:` line, never a traceback, and none is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import traceback
from datetime import UTC, datetime
from pathlib import Path

DEBUG = "RECSTILL_DEBUG"
_SECRET = re.compile(r"(://[^:/@\s]*:)[^@\s]+@|(passw(?:or)?d=|token=)[^&\s'\"]+", re.IGNORECASE)
_NO_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate")


def in_words(error: Exception) -> str:
    """Return the line for an exception that no part of recstill put into words itself.

    What a user can bring about (files, memory) is a sentence. Anything else is a fault of recstill or of a plugin: its
    traceback is written to a file, and the line says where that lies.
    """
    return _sentence(error) or _unexpected(error)


def _sentence(error: Exception) -> str:
    from pydantic import ValidationError

    from recstill.recipes.mistakes import explain

    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        if error.errno == errno.ENOSPC:
            return f"The disk is full ({error.filename or 'write'}): free some space and call again."
        return f"{place}{os.strerror(error.errno)}."
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return (
            f"A file that should be {error.encoding} text is none: byte 0x{byte:02x} at place {error.start}. Save it as UTF-8."
        )
    if isinstance(error, UnicodeEncodeError):
        return f"{ascii(error.object)[:80]} is no valid text: it has half of a character, or bytes that are no UTF-8."
    if isinstance(error, json.JSONDecodeError):
        return f"A file that should be JSON is none: {error}. It is cut off or damaged."
    if isinstance(error, ValidationError):
        return f"A {error.title} that is stored, or was given, is none of this version: {'; '.join(explain(error))[:600]}."
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "Not enough memory. Take smaller batches, fewer rows or a smaller model."
    return ""


def _unexpected(error: Exception) -> str:
    said = " ".join(without_secrets(str(error)).split())
    said = said if len(said) <= 300 else f"{said[:297]}..."
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    what = f"Unexpected {type(error).__name__}{place}: {said or 'no reason given'}"
    return f"{what}. This is a fault of recstill or of a plugin. {_kept(error)}"


def _kept(error: Exception) -> str:
    """Write the traceback into the home, and say where."""
    from recstill.settings import Settings

    text = without_secrets("".join(traceback.format_exception(error)))
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}.txt"
    try:
        path = Settings.from_environment().folder("errors") / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as problem:
        return f"Its traceback could not be written ({problem}); set {DEBUG}=1 to see it."
    return f"Its traceback is in {path}."


def without_secrets(text: str) -> str:
    """Return a text without the passwords of addresses in it."""
    return _SECRET.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)
