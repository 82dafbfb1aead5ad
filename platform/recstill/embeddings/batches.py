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
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from recstill.api.models import Slot
    from recstill.data.transform import Encoded


@dataclass(frozen=True)
class TensorRows:
    """Rows ready to train on: dense (N, D), ids (N, S), labels {label: (N,)}, row_ids (N,).

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
    """Return ids (B, S) as the KeyedJaggedTensor that TorchRec tables read: one id per row and slot."""
    num_rows, num_slots = ids.shape
    return KeyedJaggedTensor(
        keys=[slot.name for slot in slots],
        values=ids.t().reshape(-1).long(),
        lengths=torch.ones(num_rows * num_slots, dtype=torch.long),
        offsets=torch.arange(num_rows * num_slots + 1),
    )
