"""Two towers whose dot product is the score; without layers it is matrix factorisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tower(nn.Module):
    """One side: the sum of its embeddings, its dense features through a linear layer, and a body where `hidden` names one.

    forward: dense (B, D), embeddings (B, S, dim) of this side -> (B, dim).
    """

    def __init__(self, num_dense: int, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dense = nn.Linear(num_dense, dim) if num_dense else None
        layers = Body(dim, hidden, 0.0)
        self.layers = nn.Sequential(layers, nn.Linear(layers.width, dim)) if hidden else None

    def forward(self, dense: Tensor, embeddings: Tensor) -> Tensor:
        vector = embeddings.sum(1)
        if self.dense is not None:
            vector = vector + self.dense(dense)
        return vector if self.layers is None else self.layers(vector)


class TwoTower(nn.Module):
    """The logit of the primary label is the dot product of `query` and `item` (Covington et al., 2016; with ids only and no
    layers, Koren et al., 2009). Further labels have linear heads on both vectors and their product.

    hidden: `query` and `item`, (B, dim) each.
    """

    def __init__(self, inputs: ModelInputs, *, dim: int = 32, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        slots, dense = range(len(inputs.slots)), range(inputs.num_dense)
        sides = (
            (inputs.query_dense, inputs.query_slots),
            ([i for i in dense if i not in inputs.query_dense], [i for i in slots if i not in inputs.query_slots]),
        )
        if not all(places or columns for columns, places in sides):
            raise ValueError("a two-tower model needs features of the query and of the item")
        self.tables = inputs.tables(dim)
        for name, (columns, places) in zip(("query", "item"), sides, strict=True):
            self.register_buffer(f"{name}_dense", torch.tensor(columns, dtype=torch.long), persistent=False)
            self.register_buffer(f"{name}_slots", torch.tensor(places, dtype=torch.long), persistent=False)
        self.query, self.item = (Tower(len(columns), dim, hidden) for columns, _ in sides)
        self.primary = next(label.name for label in inputs.labels if label.primary)
        others = [label for label in inputs.labels if not label.primary]
        self.heads = Heads(3 * dim, others) if others else None

    def forward(self, batch: Batch) -> Output:
        embedded = self.tables(batch.sparse)
        query = self.query(batch.dense.index_select(1, self.query_dense), embedded.index_select(1, self.query_slots))
        item = self.item(batch.dense.index_select(1, self.item_dense), embedded.index_select(1, self.item_slots))
        logits = {self.primary: (query * item).sum(1)}
        if self.heads is not None:
            logits |= self.heads(torch.cat([query, item, query * item], 1))
        return Output(logits, {"query": query, "item": item})
