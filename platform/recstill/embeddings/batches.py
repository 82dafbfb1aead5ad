"""Encoded rows to batches of tensors, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from recstill.api.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from recstill.api.models import Slot
    from recstill.data.transform import Encoded


@dataclass(frozen=True)
class TensorRows:
    """Rows ready to train on: dense (N, D), ids (N, sum of slot widths), labels {label: (N,)}, row_ids (N,).

    groups (N,) are the lists that rows belong to; with `by_group` an epoch shuffles lists instead of rows, so that a batch
    holds whole ones (but for the two that its ends cut).
    """

    dense: Tensor
    ids: Tensor
    labels: Mapping[str, Tensor]
    row_ids: Tensor
    slots: tuple[Slot, ...]
    groups: Tensor | None = None
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    by_group: bool = False

    @classmethod
    def build(
        cls,
        encoded: Encoded,
        slots: tuple[Slot, ...],
        labels: Mapping[str, NDArray[np.float32]],
        row_ids: NDArray[np.int64],
        groups: NDArray[np.int64] | None = None,
        attributes: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> TensorRows:
        """Wrap arrays; nothing is copied that need not be."""

        def floats(columns: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
            return {name: torch.from_numpy(np.ascontiguousarray(values, np.float32)) for name, values in columns.items()}

        return cls(
            torch.from_numpy(np.ascontiguousarray(encoded.dense)),
            torch.from_numpy(np.ascontiguousarray(encoded.ids.astype(np.int32))),
            floats(labels),
            torch.from_numpy(row_ids),
            slots,
            None if groups is None else torch.from_numpy(groups),
            floats(attributes or {}),
        )

    def __len__(self) -> int:
        return len(self.dense)

    @property
    def device(self) -> torch.device:
        return self.dense.device

    def batch(self, rows: Tensor) -> Batch:
        """Gather some rows as one batch."""
        ids = self.ids[rows]
        return Batch(
            dense=self.dense[rows],
            sparse=jagged(ids, self.slots),
            labels={name: label[rows] for name, label in self.labels.items()},
            row_ids=self.row_ids[rows],
            groups=None if self.groups is None else self.groups[rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the rows in the order of an epoch."""
        if not self.by_group or self.groups is None:
            return torch.randperm(len(self), generator=generator)
        _, group = torch.unique(self.groups, return_inverse=True)
        return torch.argsort(torch.randperm(int(group.max()) + 1, generator=generator)[group], stable=True)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield all rows once, in order."""
        for start in range(0, len(self), batch_size):
            yield self.batch(torch.arange(start, min(start + batch_size, len(self))))

    def joined(self, other: TensorRows) -> TensorRows:
        """Return these rows and then the others; labels that one side lacks are NaN there."""
        unknown = {name: torch.full((len(other),), torch.nan) for name in self.labels}
        return replace(
            self,
            dense=torch.cat([self.dense, other.dense]),
            ids=torch.cat([self.ids, other.ids]),
            labels={name: torch.cat([v, other.labels.get(name, unknown[name])]) for name, v in self.labels.items()},
            row_ids=torch.cat([self.row_ids, other.row_ids]),
            groups=None if self.groups is None or other.groups is None else torch.cat([self.groups, other.groups]),
            attributes={name: torch.cat([v, other.attributes[name]]) for name, v in self.attributes.items()},
        )

    def take(self, rows: Tensor) -> TensorRows:
        """Return some of the rows."""
        return replace(
            self,
            dense=self.dense[rows],
            ids=self.ids[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
            row_ids=self.row_ids[rows],
            groups=None if self.groups is None else self.groups[rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )


def jagged(ids: Tensor, slots: tuple[Slot, ...]) -> KeyedJaggedTensor:
    """Return ids (B, sum of widths) as the KeyedJaggedTensor that TorchRec tables read.

    A key per slot, and per position of a sequence; the padding of bags and sequences is left out. Without slots it has no key,
    and knows its number of rows all the same.
    """
    if not slots:
        nothing = torch.zeros(0, dtype=torch.long)
        return KeyedJaggedTensor(keys=[], values=nothing, lengths=nothing, stride=len(ids))
    if any(slot.width > 1 for slot in slots):
        return _ragged(ids, slots)
    num_rows, num_slots = ids.shape
    return KeyedJaggedTensor(
        keys=[slot.name for slot in slots],
        values=ids.t().reshape(-1).long(),
        lengths=torch.ones(num_rows * num_slots, dtype=torch.long),
        offsets=torch.arange(num_rows * num_slots + 1),
    )


def _ragged(ids: Tensor, slots: tuple[Slot, ...]) -> KeyedJaggedTensor:
    keys, values, lengths, start = [], [], [], 0
    for slot in slots:
        own = ids[:, start : start + slot.width].long()
        start += slot.width
        present = torch.ones_like(own, dtype=torch.bool) if slot.kind == "id" else own != 0
        if slot.kind == "sequence":
            keys += position_keys(slot)
            values.append(own.t()[present.t()])
            lengths.append(present.t().reshape(-1).long())
        else:
            keys.append(slot.name)
            values.append(own[present])
            lengths.append(present.sum(1))
    return KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))


def position_keys(slot: Slot) -> list[str]:
    """Return the keys of a slot: its name, or a name for each position of a sequence."""
    return [f"{slot.name}[{place}]" for place in range(slot.width)] if slot.kind == "sequence" else [slot.name]


def thinned(sparse: KeyedJaggedTensor, slots: tuple[Slot, ...], keep: Callable[[Tensor], Tensor]) -> KeyedJaggedTensor:
    """Return a batch whose sequences lost positions: `keep` maps what is present (B, width) to what stays."""
    num_rows, num_keys = sparse.stride(), len(sparse.keys())
    lengths = sparse.lengths().view(num_keys, num_rows)
    kept, start = [], 0
    for slot in slots:
        width = len(position_keys(slot))
        own = lengths[start : start + width]
        kept.append(own * keep(own.t() > 0).t() if slot.kind == "sequence" else own)
        start += width
    left = torch.cat(kept)
    # Only keys of sequences, with one id at most per row, change: their whole values go.
    stays = torch.repeat_interleave((left > 0).reshape(-1), lengths.reshape(-1))
    return KeyedJaggedTensor(keys=sparse.keys(), values=sparse.values()[stays], lengths=left.reshape(-1))
