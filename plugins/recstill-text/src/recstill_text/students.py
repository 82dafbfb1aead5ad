"""Students that read words and pieces of words: hashed, looked up, crossed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class NgramStudent(nn.Module):
    """Bags of n-grams of query and title, their product, the bag of crossed words and the overlap features, through a small
    body (the shape of BERT2DNN, Jiang et al., 2020).

    hidden: `backbone` (B, last of `hidden`) and `layer1` … below it. The query's slots are those of `inputs.query_slots`.
    """

    def __init__(self, inputs: ModelInputs, *, dim: int = 16, hidden: Sequence[int] = (64, 32), dropout: float = 0.0) -> None:
        super().__init__()
        self.tables = inputs.tables(dim)
        items = [place for place in range(len(inputs.slots)) if place not in inputs.query_slots]
        pairs = [(q, i) for q in inputs.query_slots for i in items]
        self.register_buffer("first", torch.tensor([q for q, _ in pairs], dtype=torch.long), persistent=False)
        self.register_buffer("second", torch.tensor([i for _, i in pairs], dtype=torch.long), persistent=False)
        self.first: Tensor
        self.second: Tensor
        width = inputs.num_dense + (len(inputs.slots) + len(pairs)) * dim
        self.body = Body(width, hidden, dropout)
        self.heads = Heads(self.body.width, inputs.labels)

    def forward(self, batch: Batch) -> Output:
        vectors = self.tables(batch.sparse)
        crossed = vectors.index_select(1, self.first) * vectors.index_select(1, self.second)
        said = self.body.layers(torch.cat([batch.dense, vectors.flatten(1), crossed.flatten(1)], 1))
        return Output(self.heads(said["backbone"]), said)
