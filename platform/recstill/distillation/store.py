"""The signal store: what a teacher version said about the rows of a snapshot, scored once, read by any number of students.

A folder per (task, teacher version, snapshot, key of what decided them) holds Parquet parts and `signals.json`, the card that
names them with their digests. A part counts once the card names it, and the card is replaced in one rename: a kill leaves the
parts before it. What students read is laid out from complete parts, in a folder that appears in one rename too, and mapped into
memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recstill.api.errors import DataError, IntegrityError
from recstill.data.files import check_sha256, new_folder, read_card, sha256_of, write_card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

SCHEMA = 2
_ARRAYS = "arrays.json"


@dataclass(frozen=True)
class SignalKey:
    """What identifies a set of signals. inputs: the key of everything that decides them: rows, splits, labels, code; empty for
    signals of an earlier version, which did not keep it."""

    task: str
    teacher: str
    snapshot: str
    inputs: str = ""

    def folder(self, root: Path) -> Path:
        name = f"{self.snapshot}-{self.inputs[:12]}" if self.inputs else self.snapshot
        return root / self.task / self.teacher.replace(":", "-") / name


class SignalStore:
    """The signals of one key, for appending and reading."""

    def __init__(self, key: SignalKey, root: Path, folder: Path | None = None) -> None:
        """folder: where they were found, if not by their key."""
        self.key, self.root, self.folder = key, root, folder or key.folder(root)

    @property
    def card(self) -> dict[str, Any] | None:
        """The card, or None if nothing was scored. Raise DataError if it is of another schema or key."""
        if not (self.folder / "signals.json").is_file():
            return None
        card = read_card(self.folder / "signals.json", f"Delete {self.folder} and score again.")
        if card.get("schema") != SCHEMA:
            raise DataError(
                f"{self.folder} has signal schema {card.get('schema')}; this version reads {SCHEMA}. Delete it and score again."
            )
        if _key_of(card) != self.key:
            raise DataError(
                f"{self.folder} holds signals of {card['teacher']} for {card['snapshot']}, not of {self.key.teacher} for "
                f"{self.key.snapshot}. Delete it and score again."
            )
        if self.key.folder(self.root) != self.folder:
            raise DataError(
                f"{self.folder} holds signals that belong in {self.key.folder(self.root)}: it was moved or changed."
            )
        return card

    @property
    def is_complete(self) -> bool:
        """Whether every row that should be scored was."""
        card = self.card
        return card is not None and bool(card["complete"])

    def begin(self, facts: Mapping[str, Any]) -> set[str]:
        """Start or go on; return the names of the parts that are there already. Other facts than before start afresh, but for
        fewer hidden vectors: what is stored beyond what is asked stays.

        facts: snapshot_sha256, num_snapshot_rows, labels, hidden {name: width}, sampling_rate, kind.
        """
        card = self.card
        if card is not None:
            stored = {name: card.get(name) for name in facts}
            more = dict(stored["hidden"] or {}).items() >= dict(facts["hidden"]).items()
            if not more or {**stored, "hidden": 0} != {**facts, "hidden": 0}:
                shutil.rmtree(self.folder)
                card = None
        if card is None:
            card = {"schema": SCHEMA, **asdict(self.key), **facts, "parts": {}, "complete": False}
            write_card(self.folder / "signals.json", card)
        for path in self.folder.glob("*.parquet*"):
            if path.name not in card["parts"]:  # written by a process that died before it could say so
                path.unlink()
        return set(card["parts"])

    def append(
        self, name: str, columns: Mapping[str, NDArray[np.generic]], event_times: NDArray[np.generic] | None = None
    ) -> None:
        """Add a part: arrays of N rows or (N, width). Raise DataError, and store nothing, if a float is NaN or infinite."""
        bad = [n for n, values in columns.items() if values.dtype.kind == "f" and not np.isfinite(values).all()]
        if bad:
            raise DataError(
                f"Teacher {self.key.teacher} gave NaN or infinite values for {', '.join(bad)}; they were not stored."
            )
        card = self.card
        assert card is not None
        table = pa.table({n: _column(values) for n, values in columns.items()})
        path = self.folder / name
        temporary = path.with_suffix(".parquet.new")
        # Uncompressed and without dictionaries, so that readers map the file and only copy.
        pq.write_table(table, temporary, compression="none", use_dictionary=False)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
        entry: dict[str, Any] = {
            "sha256": sha256_of(path),
            "rows": len(table),
            "scored_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if event_times is not None and len(event_times):
            entry |= {"first_event": str(event_times.min()), "last_event": str(event_times.max())}
        card["parts"][name] = entry
        write_card(self.folder / "signals.json", card)

    def seal(self) -> None:
        """Say that all rows are scored."""
        card = self.card
        assert card is not None
        write_card(self.folder / "signals.json", {**card, "complete": True})

    def read(self, prefix: str) -> dict[str, NDArray[Any]] | None:
        """Return the columns of the parts whose names begin with `prefix`, memory-mapped; None if there is no such part.

        The first reader lays each column of the checked parts out as one array file, which every later one maps: students in
        several processes share its pages. Raise IntegrityError for a changed part.
        """
        card = self.card
        if card is None:
            raise DataError(f"No signals of teacher {self.key.teacher} for snapshot {self.key.snapshot}. Run the score stage.")
        names = sorted(name for name in card["parts"] if name.startswith(prefix))
        for name in names:
            check_sha256(self.folder / name, card["parts"][name]["sha256"], f"Delete {self.folder} and score again.")
        if not names:
            return None
        digest = hashlib.sha256("".join(card["parts"][name]["sha256"] for name in names).encode()).hexdigest()
        folder = self.folder / f"{prefix}-{digest[:16]}"
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)  # it can be made again from the parts
            with new_folder(folder) as temporary:
                write_card(temporary / _ARRAYS, _lay_out([self.folder / name for name in names], temporary))
        # Copy on write: torch wants arrays that it could write to, and nobody does.
        return {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in read_card(folder / _ARRAYS)}

    @property
    def num_bytes(self) -> int:
        """What the parts, and the arrays laid out from them, take on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def list_stores(root: Path) -> list[SignalStore]:
    """Return every set of signals below the root, by the folder it lies in; `card` raises where it cannot be read."""
    return [SignalStore(_key_at(path), root, path.parent) for path in sorted(root.glob("*/*/*/signals.json"))]


def _key_at(path: Path) -> SignalKey:
    try:
        return _key_of(read_card(path))
    except (IntegrityError, KeyError):
        task, teacher, snapshot = path.parts[-4:-1]
        return SignalKey(task, teacher, snapshot)


def _key_of(card: Mapping[str, Any]) -> SignalKey:
    return SignalKey(str(card["task"]), str(card["teacher"]), str(card["snapshot"]), str(card.get("inputs", "")))


def _is_whole(folder: Path) -> bool:
    if not (folder / _ARRAYS).is_file():
        return False
    try:
        arrays = read_card(folder / _ARRAYS)
    except IntegrityError:
        return False
    files = {folder / f"{name}.npy": digest for name, digest in arrays.items()}
    return all(path.is_file() and sha256_of(path) == digest for path, digest in files.items())


def _lay_out(parts: Sequence[Path], folder: Path) -> dict[str, str]:
    """Write a file NAME.npy for each column of all parts together, a part at a time; return {name: sha256}."""
    num_rows, start = sum(pq.read_metadata(path).num_rows for path in parts), 0
    arrays: dict[str, NDArray[Any]] = {}
    for path in parts:
        table = pq.read_table(path, memory_map=True)
        for name in table.column_names:
            values = _array(table[name].combine_chunks())
            if name not in arrays:
                shape = (num_rows, *values.shape[1:])
                arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=values.dtype, shape=shape)
            arrays[name][start : start + len(values)] = values
        start += len(table)
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]  # a memmap
    return {name: sha256_of(folder / f"{name}.npy") for name in arrays}


def _array(column: pa.Array) -> NDArray[Any]:
    """Return N values or (N, width)."""
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, column.type.list_size)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _column(values: NDArray[np.generic]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
