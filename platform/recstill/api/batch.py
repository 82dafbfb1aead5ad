"""What a model receives and returns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

JOINT = " & "


@dataclass(frozen=True)
class Batch:
    """B rows.

    dense: (B, D) float32. sparse: what the model's tables read (a TorchRec KeyedJaggedTensor in training), opaque to the
    model. labels: {label: (B,)} float32, NaN where the label is not known (an unlabelled row teaches only through the
    teacher). row_ids: (B,) int64, stable within a snapshot. groups: (B,) int64, rows with the same number are one list
    (candidates of one request), -1 for rows of no list. attributes: {name: (B,)} float32, what a strategy may know of a row
    and no model ever sees (popularity, a fairness group, a rule's score).
    """

    dense: Tensor
    sparse: Any
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    row_ids: Tensor | None = None
    groups: Tensor | None = None
    attributes: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return replace(
            self,
            dense=self.dense.to(device),
            sparse=self.sparse.to(device),
            labels={name: label.to(device) for name, label in self.labels.items()},
            row_ids=None if self.row_ids is None else self.row_ids.to(device),
            groups=None if self.groups is None else self.groups.to(device),
            attributes={name: values.to(device) for name, values in self.attributes.items()},
        )


@dataclass(frozen=True)
class Output:
    """What a model says about B rows.

    logits: {label: (B,)} raw scores ((B, C) for a multiclass label; the log of the mean for a count). hidden: {name: (B,
    ...)} vectors that strategies may match. attention: {name: (B, H, L)}. parts: {label: (B, P)}, terms whose sum is the logit
    up to a constant, in the order of the model's attribute `part_names`; a model that gives them is served with reasons. A term
    of two features is named after both, with `JOINT` between them.
    """

    logits: Mapping[str, Tensor]
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Signals:
    """What a teacher said about the rows of a batch, read from the signal store or from the live teacher.

    logits: {label: (B,)}. mask: (B,) float32, 1 where the teacher scored the row and 0 where it did not; every loss must
    ignore masked rows. hidden: {name: (B, ...)} and attention: {name: (B, H, L)}, only from stores or teachers that keep
    them. sampling_rate: the share of negatives that the teacher's training kept; ln of it corrects its logits.
    others: the same of further teachers, in the recipe's order.
    """

    logits: Mapping[str, Tensor]
    mask: Tensor
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    attention: Mapping[str, Tensor] = field(default_factory=dict)
    sampling_rate: float = 1.0
    others: tuple[Signals, ...] = ()
