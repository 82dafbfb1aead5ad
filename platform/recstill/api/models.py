"""What a teacher or a student is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from recstill.api.batch import Batch, Output
    from recstill.api.task import LabelSpec


@dataclass(frozen=True)
class Slot:
    """One sparse feature as the model sees it: ids into `table`, which has `num_rows` rows.

    kind: `id` is one per row. `bag` is up to `width` ids in no order, and `sequence` up to `width` in order, newest last; where
    there are fewer the rest is id 0, which is no id then.
    """

    name: str
    table: str
    num_rows: int
    width: int = 1
    kind: Literal["id", "bag", "sequence"] = "id"


class Tables(Protocol):
    """Makes the module that turns `batch.sparse` into vectors."""

    def __call__(self, dim: int, *, expand: bool = False) -> nn.Module:
        """Return a module: sparse -> (B, len(slots), dim), bags and sequences as the mean of their vectors.

        With `expand` it returns (B, P, dim), the positions of each sequence one after the other in the place of the slot (see
        `ModelInputs.places`), zero where there is none, and its method `present(sparse)` returns (B, P), 1 where there is one.
        """


@dataclass(frozen=True)
class ModelInputs:
    """The first argument of every teacher and student.

    `tables(dim)` makes the module that turns `batch.sparse` into (B, len(slots), dim): fused TorchRec tables in training, one
    concatenated table in export. Call it once, and keep the result as an attribute of the module; models that look into
    sequences call `tables(dim, expand=True)`. query_dense, query_slots: which dense columns and slots describe the query; the
    others describe the item. Two-tower models need them. dense_names: the feature of each dense column; a number has its
    standardised log, then its quantile rank in [-1, 1], then a flag where training had gaps.
    """

    num_dense: int
    slots: tuple[Slot, ...]
    labels: tuple[LabelSpec, ...]
    tables: Tables
    query_dense: tuple[int, ...] = ()
    query_slots: tuple[int, ...] = ()
    dense_names: tuple[str, ...] = ()

    @property
    def places(self) -> dict[str, slice]:
        """Where each slot lies among the vectors of `tables(dim, expand=True)`."""
        found, start = {}, 0
        for slot in self.slots:
            stop = start + (slot.width if slot.kind == "sequence" else 1)
            found[slot.name], start = slice(start, stop), stop
        return found


class Model(Protocol):
    """A teacher or a student: a `torch.nn.Module` built as `Model(inputs, **options)`."""

    def __call__(self, batch: Batch) -> Output:
        """Score a batch. Every label of `inputs.labels` must be in `Output.logits`."""


class Prunable(Model, Protocol):
    """A model that can be made narrower: recipes with a `prune` stage need one."""

    def prune(self, share: float) -> Mapping[str, Any]:
        """Remove a share (0 to 1) of the hidden units in place, those that matter least, and return the options that build a
        model of the new shape."""
