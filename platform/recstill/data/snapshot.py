"""Snapshots: immutable, hashed training tables."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recstill.api.errors import IntegrityError, UnknownNameError
from recstill.data.arrow import logical_type, plain_table, typed_column, typed_columns
from recstill.data.files import check_sha256, new_folder, read_card, sha256_of, write_card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.data.columns import Typed, Values

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Snapshot:
    """A training table on disk. `meta` is its card: task, options, digest, feature service and fingerprint, counts."""

    folder: Path
    meta: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.meta["id"])

    @cached_property
    def split(self) -> Values:
        """The split of each row, as strings."""
        return self.columns(["split"])["split"]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read columns, in row-id order: all of them by default, none for an empty list."""
        chosen = None if columns is None else list(columns)
        return pq.read_table(self.folder / "rows.parquet", columns=chosen, memory_map=True)

    @cached_property
    def types(self) -> dict[str, str]:
        """The logical type of every column."""
        schema = pq.read_schema(self.folder / "rows.parquet")
        return {field.name: logical_type(field.type) for field in schema}

    def typed(self, names: Sequence[str], rows: Values | None = None) -> dict[str, Typed]:
        """Read columns with their types, all rows or some."""
        table = self.table(list(dict.fromkeys(names)))
        columns = typed_columns(table)
        return columns if rows is None else {name: column[rows] for name, column in columns.items()}

    def columns(self, names: Sequence[str], rows: Values | None = None) -> dict[str, Values]:
        """Read columns as numpy arrays, all rows or some: integers and booleans with gaps as objects with None."""
        return {name: column.plain() for name, column in self.typed(names, rows).items()}

    def rows_of(self, split: str) -> Values:
        """Return the row ids of a split."""
        return np.flatnonzero(self.split == split)


def write_snapshot(table: pa.Table, meta: Mapping[str, Any], root: Path) -> Snapshot:
    """Store the table under its content hash, with `row_id` = its position, and return it. A second write is a no-op.

    Dictionary columns are stored as their values: a code is no value, and a null has none.
    """
    table = plain_table(table).append_column("row_id", pa.array(np.arange(len(table), dtype=np.int64)))
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".new-") as temporary:
        pq.write_table(table, Path(temporary) / "rows.parquet", compression="zstd", row_group_size=131_072)
        digest = sha256_of(Path(temporary) / "rows.parquet")
        snapshot_id = f"{meta['task']}-{digest[:12]}"
        card = {**meta, "id": snapshot_id, "sha256": digest, "num_rows": len(table), "columns": table.column_names}
        split = typed_column(table["split"]).plain()
        card["splits"] = {name: int(np.sum(split == name)) for name in SPLITS}
        with new_folder(root / snapshot_id) as folder:
            (Path(temporary) / "rows.parquet").rename(folder / "rows.parquet")
            write_card(folder / "snapshot.json", card)
    return Snapshot(root / snapshot_id, card)


def open_snapshot(snapshot_id: str, root: Path) -> Snapshot:
    """Open and verify a snapshot. Raise IntegrityError if a byte of its rows or its card differs."""
    folder = root / snapshot_id
    if not (folder / "snapshot.json").is_file():
        known = [path.parent.name for path in root.glob("*/snapshot.json")]
        raise UnknownNameError("snapshot", snapshot_id, known, "Make one with `recstill data snapshot`.")
    meta = open_card(folder)
    check_sha256(folder / "rows.parquet", meta["sha256"], _way_out(folder))
    return Snapshot(folder, meta)


def open_card(folder: Path) -> dict[str, Any]:
    """Return the card of a snapshot. Raise IntegrityError if it was changed, or is another's: the id names the rows' digest."""
    card = read_card(folder / "snapshot.json", _way_out(folder))
    if card.get("id") != folder.name or not folder.name.endswith(f"-{str(card.get('sha256'))[:12]}"):
        raise IntegrityError(f"{folder / 'snapshot.json'} is the card of another snapshot. {_way_out(folder)}")
    return card


def _way_out(folder: Path) -> str:
    return f"Delete {folder} and run `recstill data snapshot`."
