"""Encoded rows to batches of tensors, in memory."""

from __future__ import annotations

from dataclasses import dataclass
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
    """Rows ready to train on: dense (N, D), ids (N, S), labels {label: (N,)}, row_ids (N,)."""

    dense: Tensor
    ids: Tensor
    labels: Mapping[str, Tensor]
    row_ids: Tensor
    slots: tuple[Slot, ...]

    @classmethod
    def build(
        cls,
        encoded: Encoded,
        slots: tuple[Slot, ...],
        labels: Mapping[str, NDArray[np.float32]],
        row_ids: NDArray[np.int64],
    ) -> TensorRows:
        """Wrap arrays; nothing is copied that need not be."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values, np.float32)) for name, values in labels.items()}
        ids = torch.from_numpy(np.ascontiguousarray(encoded.ids.astype(np.int32)))
        return cls(torch.from_numpy(np.ascontiguousarray(encoded.dense)), ids, tensors, torch.from_numpy(row_ids), slots)

    def __len__(self) -> int:
        return len(self.dense)

    def batch(self, rows: Tensor) -> Batch:
        """Gather some rows as one batch."""
        ids = self.ids[rows]
        return Batch(
            dense=self.dense[rows],
            sparse=jagged(ids, self.slots),
            labels={name: label[rows] for name, label in self.labels.items()},
            row_ids=self.row_ids[rows],
        )

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield all rows once, shuffled when a generator is given."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            yield self.batch(order[start : start + batch_size])


def jagged(ids: Tensor, slots: tuple[Slot, ...]) -> KeyedJaggedTensor:
    """Return ids (B, S) as the KeyedJaggedTensor that TorchRec tables read: one id per row and slot."""
    num_rows, num_slots = ids.shape
    return KeyedJaggedTensor(
        keys=[slot.name for slot in slots],
        values=ids.t().reshape(-1).long(),
        lengths=torch.ones(num_rows * num_slots, dtype=torch.long),
        offsets=torch.arange(num_rows * num_slots + 1),
    )
