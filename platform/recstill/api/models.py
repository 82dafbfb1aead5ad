"""What a teacher or a student is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from recstill.api.batch import Batch, Output
    from recstill.api.task import LabelSpec


@dataclass(frozen=True)
class Slot:
    """One sparse feature as the model sees it: an id per row into `table`, which has `num_rows` rows."""

    name: str
    table: str
    num_rows: int


@dataclass(frozen=True)
class ModelInputs:
    """The first argument of every teacher and student.

    `tables(dim)` makes the module that turns `batch.sparse` into (B, len(slots), dim): fused TorchRec tables in training,
    one concatenated table in export. Call it once, and keep the result as an attribute of the module. query_dense,
    query_slots: which dense columns and slots describe the query; the others describe the item. Two-tower models need them.
    """

    num_dense: int
    slots: tuple[Slot, ...]
    labels: tuple[LabelSpec, ...]
    tables: Callable[[int], nn.Module]
    query_dense: tuple[int, ...] = ()
    query_slots: tuple[int, ...] = ()


class Model(Protocol):
    """A teacher or a student: a `torch.nn.Module` built as `Model(inputs, **options)`."""

    def __call__(self, batch: Batch) -> Output:
        """Score a batch. Every label of `inputs.labels` must be in `Output.logits`."""


class Prunable(Model, Protocol):
    """A model that can be made narrower: recipes with a `prune` stage need one."""

    def prune(self, share: float) -> Mapping[str, Any]:
        """Remove a share (0 to 1) of the hidden units in place, those that matter least, and return the options that build a
        model of the new shape."""
