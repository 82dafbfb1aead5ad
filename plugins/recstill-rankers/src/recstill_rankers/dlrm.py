"""Deep Learning Recommendation Model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class DLRM(nn.Module):
    """Dense features through a bottom body, dot products of all pairs of vectors, a top body (Naumov et al., 2019).

    Without dense features the vectors themselves stand in for the bottom body. hidden: `backbone` (B, last width of `top`), and
    `layer1` ... of the layers of `top` below it.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 32,
        bottom: Sequence[int] = (128,),
        top: Sequence[int] = (512, 256),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tables = inputs.tables(dim)
        self.bottom = Body(inputs.num_dense, bottom, 0.0) if inputs.num_dense else None
        width = len(inputs.slots) * dim if self.bottom is None else dim + self.bottom.width
        self.to_vector = None if self.bottom is None else nn.Linear(self.bottom.width, dim)
        num_vectors = len(inputs.slots) + (self.bottom is not None)
        rows, columns = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        self.register_buffer("pairs", rows * num_vectors + columns, persistent=False)
        self.top = Body(width + len(rows), top, dropout)
        self.heads = Heads(self.top.width, inputs.labels)

    def forward(self, batch: Batch) -> Output:
        vectors = self.tables(batch.sparse)
        first = [vectors.flatten(1)]
        if self.bottom is not None and self.to_vector is not None:
            dense = self.bottom(batch.dense)
            vector = self.to_vector(dense)
            first = [vector, dense]
            vectors = torch.cat([vector.unsqueeze(1), vectors.to(vector.dtype)], 1)
        dots = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        said = self.top.layers(torch.cat([*first, dots.to(first[0].dtype)], 1))
        return Output(logits=self.heads(said["backbone"]), hidden=said)

    def prune(self, share: float) -> dict[str, list[int]]:
        """Remove a share of the units of the top body, in place; return the options of what is left."""
        return {"top": self.top.narrow(share, self.heads.linear)}


class SmallDLRM(DLRM):
    """DLRM with narrow vectors and small bodies: a student that keeps the pairwise dot products."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 4,
        bottom: Sequence[int] = (32,),
        top: Sequence[int] = (64, 32),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(inputs, dim=dim, bottom=bottom, top=top, dropout=dropout)
