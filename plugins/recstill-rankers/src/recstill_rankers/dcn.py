"""Deep & Cross Network v2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class CrossLayer(nn.Module):
    """x0 * (W x + b) + x, with W = U V of low rank where `rank` > 0 (Wang et al., 2021, eq. 1 and 3)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.weight = (
            nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width)) if rank else nn.Linear(width, width)
        )

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        return x0 * self.weight(x) + x


class DCNv2(nn.Module):
    """Cross layers beside a deep body, joined before the heads. hidden: `backbone` (B, width of the join),
    `deep` the body's last layer, `layer1` ... those below it."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 32,
        cross_layers: int = 3,
        rank: int = 0,
        hidden: Sequence[int] = (512, 256),
        dropout: float = 0.1,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tables = inputs.tables(dim)
        width = inputs.num_dense + len(inputs.slots) * dim
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.cross = nn.ModuleList(CrossLayer(width, rank) for _ in range(cross_layers))
        self.body = Body(width, hidden, dropout)
        self.heads = Heads(width + self.body.width, inputs.labels)

    def forward(self, batch: Batch) -> Output:
        embedded = self.embedding_dropout(self.tables(batch.sparse).flatten(1))
        x0 = torch.cat([batch.dense, embedded], 1)
        crossed = x0
        for layer in self.cross:
            crossed = layer(x0, crossed)
        deep = self.body.layers(x0)
        joined = torch.cat([crossed, deep["backbone"]], 1)
        return Output(logits=self.heads(joined), hidden={**deep, "backbone": joined, "deep": deep["backbone"]})


class SmallDCN(DCNv2):
    """DCNv2 with narrow tables, one low-rank cross layer and a small body: a student."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 4,
        cross_layers: int = 1,
        rank: int = 16,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            inputs, dim=dim, cross_layers=cross_layers, rank=rank, hidden=hidden, dropout=dropout,
            embedding_dropout=embedding_dropout,
        )  # fmt: skip
