# ruff: noqa: RUF001 - the letters that narrow encodings lack
"""Output on terminals whose encoding lacks some of our letters."""

from __future__ import annotations

import codecs
import sys

_PLAIN = {
    "…": "...", "±": "+-", "→": "->", "–": "-", "—": "-", "×": "x", "≤": "<=", "≥": ">=", "²": "^2", "’": "'",
    "├": "|", "└": "`", "─": "-", "│": "|",
}  # fmt: skip


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in lost), error.end


def write_what_fits() -> None:
    """Let stdout and stderr write what their encoding has not in plain letters, instead of failing."""
    codecs.register_error("recstill", _plainer)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="recstill")
