"""Deep Interest Network: what of a history matters depends on the candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Heads

if TYPE_CHECKING:
    from collections.abc import Sequence


class TargetAttention(nn.Module):
    """Weigh a history by a candidate: softmax of a small net over [k, q, k - q, k * q] (Zhou et al., 2018, with the softmax of
    DIEN). forward: candidate (B, dim), history (B, L, dim), present (B, L) -> (B, dim) and weights (B, 1, L), exactly zero
    where there is no history."""

    def __init__(self, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Body(4 * dim, hidden, 0.0)
        self.score = nn.Linear(self.body.width, 1)

    def forward(self, candidate: Tensor, history: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        query = candidate.unsqueeze(1).expand_as(history)
        pairs = torch.cat([history, query, history - query, history * query], 2)
        # As one long batch: traced for its gradients, a linear layer over three axes would keep the number of rows it saw.
        scores = self.score(self.body(pairs.flatten(0, 1))).view(history.shape[:2]).float()
        weights = torch.softmax(scores.masked_fill(present == 0, -1e9), 1) * present
        return (weights.unsqueeze(2).to(history.dtype) * history).sum(1), weights.unsqueeze(1)


class DIN(nn.Module):
    """Target attention over every sequence whose table a single id reads too (the candidate), beside the other vectors.

    hidden: `backbone`, `layer1` …; attention: {sequence: (B, 1, L)}. A task without sequences makes it a plain deep ranker.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 32,
        attention: Sequence[int] = (64, 32),
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tables = inputs.tables(dim, expand=True)
        self.places = inputs.places
        candidates = {slot.table: slot.name for slot in reversed(inputs.slots) if slot.kind == "id"}
        self.targets = {s.name: candidates[s.table] for s in inputs.slots if s.kind == "sequence" and s.table in candidates}
        self.attention = nn.ModuleDict({name: TargetAttention(dim, attention) for name in self.targets})
        self.body = Body(inputs.num_dense + len(inputs.slots) * dim, hidden, dropout)
        self.heads = Heads(self.body.width, inputs.labels)

    def forward(self, batch: Batch) -> Output:
        vectors, present = self.tables(batch.sparse), self.tables.present(batch.sparse)
        parts, looks = [batch.dense], {}
        for name, place in self.places.items():
            own, here = vectors[:, place], present[:, place]
            if name in self.targets:
                candidate = vectors[:, self.places[self.targets[name]].start]
                seen, looks[name] = self.attention[name](candidate, own, here)
            else:
                seen = own.sum(1) / here.sum(1, keepdim=True).clamp(min=1)
            parts.append(seen.to(batch.dense.dtype))
        said = self.body.layers(torch.cat(parts, 1))
        return Output(self.heads(said["backbone"]), said, looks)


class SmallDIN(DIN):
    """DIN with narrow vectors and small bodies: a student."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 8,
        attention: Sequence[int] = (16,),
        hidden: Sequence[int] = (32,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(inputs, dim=dim, attention=attention, hidden=hidden, dropout=dropout)
