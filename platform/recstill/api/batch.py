"""What a model receives and returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows.

    dense: (B, D) float32. sparse: what the model's tables read (a TorchRec KeyedJaggedTensor in training), opaque to the
    model. labels: {label: (B,)} float32. row_ids: (B,) int64, stable within a snapshot. weights: (B,) or None.
    """

    dense: Tensor
    sparse: Any
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    row_ids: Tensor | None = None
    weights: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return replace(
            self,
            dense=self.dense.to(device),
            sparse=self.sparse.to(device),
            labels={name: label.to(device) for name, label in self.labels.items()},
            row_ids=None if self.row_ids is None else self.row_ids.to(device),
            weights=None if self.weights is None else self.weights.to(device),
        )


@dataclass(frozen=True)
class Output:
    """What a model says about B rows.

    logits: {label: (B,)} raw scores ((B, C) for a multiclass label; the log of the mean for a count). hidden: {name: (B,
    ...)} vectors that strategies may match. attention: {name: (B, H, L)}.
    """

    logits: Mapping[str, Tensor]
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Signals:
    """What a teacher said about the rows of a batch, read from the signal store or from the live teacher.

    logits: {label: (B,)}. mask: (B,) float32, 1 where the teacher scored the row and 0 where it did not; every loss must
    ignore masked rows. hidden: {name: (B, ...)}, only from stores or teachers that keep it.
    """

    logits: Mapping[str, Tensor]
    mask: Tensor
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
