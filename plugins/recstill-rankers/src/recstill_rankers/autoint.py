"""AutoInt: fields attend to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class FieldAttention(nn.Module):
    """Multi-head self-attention over fields with a residual. forward: (B, F, dim) -> (B, F, dim) and (B, heads, F, F)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.residual = nn.Linear(dim, dim, bias=False)

    def forward(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        rows, num_fields, dim = fields.shape
        query, key, value = self.project(fields).view(rows, num_fields, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        looks = torch.softmax(query @ key.transpose(2, 3) / (dim // self.heads) ** 0.5, 3)
        seen = (looks @ value).transpose(1, 2).reshape(rows, num_fields, dim)
        return torch.relu(seen + self.residual(fields)), looks


class AutoInt(nn.Module):
    """Self-attention over the embedded fields and one field of all dense features, beside a deep body (Song et al., 2019).

    hidden: `backbone`; attention: `fields` (B, heads, F, F) of the last layer.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 16,
        layers: int = 2,
        heads: int = 2,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tables = inputs.tables(dim)
        self.dense = nn.Linear(inputs.num_dense, dim) if inputs.num_dense else None
        self.attention = nn.ModuleList(FieldAttention(dim, heads) for _ in range(layers))
        num_fields = len(inputs.slots) + (self.dense is not None)
        self.body = Body(inputs.num_dense + len(inputs.slots) * dim, hidden, dropout)
        self.heads = Heads(self.body.width + num_fields * dim, inputs.labels)

    def forward(self, batch: Batch) -> Output:
        embedded = self.tables(batch.sparse)
        fields = embedded
        if self.dense is not None:
            fields = torch.cat([self.dense(batch.dense).unsqueeze(1).to(embedded.dtype), embedded], 1)
        looks = fields
        for layer in self.attention:
            fields, looks = layer(fields)
        deep = self.body.layers(torch.cat([batch.dense, embedded.flatten(1)], 1))
        backbone = torch.cat([deep["backbone"], fields.flatten(1).to(deep["backbone"].dtype)], 1)
        return Output(self.heads(backbone), {**deep, "backbone": backbone}, {"fields": looks})


class SmallAutoInt(AutoInt):
    """AutoInt with narrow vectors, one layer and a small body: a student."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 4,
        layers: int = 1,
        heads: int = 1,
        hidden: Sequence[int] = (32,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(inputs, dim=dim, layers=layers, heads=heads, hidden=hidden, dropout=dropout)
