"""The signal store: what a teacher version said about the rows of a snapshot, scored once, read by any number of students."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from recstill.api.batch import Signals
from recstill.api.errors import DataError
from recstill.data.files import check_sha256, new_folder, read_json, sha256_of, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA = 1


@dataclass(frozen=True)
class SignalKey:
    """What identifies a set of signals."""

    task: str
    teacher: str
    snapshot: str

    def folder(self, root: Path) -> Path:
        return root / self.task / self.teacher.replace(":", "-") / self.snapshot


class StoredSignals:
    """Signals by row id. `logits[label]` holds a value per row of the snapshot; `mask` is 1 where there is one."""

    def __init__(self, meta: Mapping[str, Any], logits: Mapping[str, Tensor], mask: Tensor) -> None:
        self.meta, self.logits, self.mask = meta, logits, mask

    @property
    def coverage(self) -> float:
        """The share of the snapshot's rows that have signals."""
        return float(self.mask.mean())

    def of(self, row_ids: Tensor) -> Signals:
        """Return the signals of a batch."""
        return Signals({label: values[row_ids] for label, values in self.logits.items()}, self.mask[row_ids])


def write_signals(
    key: SignalKey, row_ids: NDArray[np.int64], logits: Mapping[str, NDArray[np.float32]], num_rows: int, root: Path
) -> Path:
    """Store raw logits. They appear whole or not at all; signals of the key that are there already stay."""
    folder = key.folder(root)
    if bad := [label for label, values in logits.items() if not np.isfinite(values).all()]:
        raise DataError(f"Teacher {key.teacher} gave NaN or infinite logits for {', '.join(bad)}; nothing was stored.")
    columns = {f"logit_{label}": pa.array(list(v) if v.ndim > 1 else v) for label, v in logits.items()}
    with new_folder(folder) as temporary:
        # Uncompressed, so that readers map the file instead of unpacking it.
        table = pa.table({"row_id": row_ids, **columns})
        pq.write_table(table, temporary / "part-0.parquet", compression="none", use_dictionary=False)
        card = {
            "schema": SCHEMA,
            "task": key.task,
            "teacher": key.teacher,
            "snapshot": key.snapshot,
            "labels": sorted(logits),
            "num_snapshot_rows": num_rows,
            "num_rows": len(row_ids),
            "scored_at": datetime.now(UTC).isoformat(),
            "files": {"part-0.parquet": sha256_of(temporary / "part-0.parquet")},
        }
        write_json(temporary / "signals.json", card)
    return folder


def has_signals(key: SignalKey, root: Path) -> bool:
    """Say whether the key was scored."""
    return (key.folder(root) / "signals.json").is_file()


def read_signals(key: SignalKey, root: Path) -> StoredSignals:
    """Open signals. Raise DataError if they are absent, of another schema or key, or were changed."""
    folder = key.folder(root)
    if not has_signals(key, root):
        raise DataError(f"No signals of teacher {key.teacher} for snapshot {key.snapshot}. Run the recipe's score stage.")
    card = read_json(folder / "signals.json")
    if card["schema"] != SCHEMA:
        raise DataError(f"{folder} has signal schema {card['schema']}; this version reads {SCHEMA}.")
    if (card["task"], card["teacher"], card["snapshot"]) != (key.task, key.teacher, key.snapshot):
        raise DataError(f"{folder} holds signals of {card['teacher']} for {card['snapshot']}. Delete it and score again.")
    for name, digest in card["files"].items():
        check_sha256(folder / name, digest, f"Delete {folder} and score again.")
    num_rows = card["num_snapshot_rows"]
    mask = torch.zeros(num_rows)
    logits: dict[str, Tensor] = {}
    for name in card["files"]:
        table = pq.read_table(folder / name, memory_map=True)
        row_ids = torch.from_numpy(table["row_id"].to_numpy().copy())
        mask[row_ids] = 1.0
        for label in card["labels"]:
            values = torch.from_numpy(np.stack(table[f"logit_{label}"].to_numpy()))
            logits.setdefault(label, torch.zeros((num_rows, *values.shape[1:])))[row_ids] = values
    return StoredSignals(card, logits, mask)
