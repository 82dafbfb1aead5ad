"""The smallest student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class SmallMLP(nn.Module):
    """Embeddings and dense features through a small body. hidden: `backbone` (B, last of `hidden`), and
    `layer1` ... of the layers below it."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 4,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        adapter_rank: int = 0,
    ) -> None:
        super().__init__()
        self.tables = inputs.tables(dim)
        self.body = Body(inputs.num_dense + len(inputs.slots) * dim, hidden, dropout, adapter_rank)
        self.heads = Heads(self.body.width, inputs.labels)

    def forward(self, batch: Batch) -> Output:
        said = self.body.layers(torch.cat([batch.dense, self.tables(batch.sparse).flatten(1)], 1))
        return Output(logits=self.heads(said["backbone"]), hidden=said)

    def prune(self, share: float) -> dict[str, list[int]]:
        """Remove a share of the hidden units, in place; return the options of what is left."""
        return {"hidden": self.body.narrow(share, self.heads.linear)}
