"""Rankers for several labels: shared bottom, MMoE, PLE, ESMM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recstill.api import Batch, ModelInputs, Output
from recstill_rankers.heads import Body, Towers

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Embedded(nn.Module):
    """Dense features and embeddings side by side."""

    def __init__(self, inputs: ModelInputs, dim: int) -> None:
        super().__init__()
        self.tables = inputs.tables(dim)
        self.width = inputs.num_dense + len(inputs.slots) * dim

    def embed(self, batch: Batch) -> Tensor:
        return torch.cat([batch.dense, self.tables(batch.sparse).flatten(1)], 1)


class SharedBottom(_Embedded):
    """One body for all labels, then a tower each (Caruana, 1997). hidden: `backbone`, and `layer1` ... below it."""

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 4,
        bottom: Sequence[int] = (64,),
        tower: Sequence[int] = (16,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(inputs, dim)
        self.bottom = Body(self.width, bottom, dropout)
        self.towers = Towers(self.bottom.width, tower, inputs.labels, dropout)
        self.names = [label.name for label in inputs.labels]

    def forward(self, batch: Batch) -> Output:
        hidden = self.bottom.layers(self.embed(batch))
        return Output(self.towers(dict.fromkeys(self.names, hidden["backbone"])), hidden)


class Experts(nn.Module):
    """Bodies side by side. forward: (B, width) -> (B, experts, last)."""

    def __init__(self, count: int, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(Body(width, hidden, dropout) for _ in range(count))
        self.width = self.bodies[0].width

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([body(inputs) for body in self.bodies], 1)


def mixed(gate: nn.Linear, reader: Tensor, experts: Tensor) -> Tensor:
    """Return (B, width): the experts (B, E, width), weighted by a softmax gate on (B, inputs)."""
    return (torch.softmax(gate(reader), 1).unsqueeze(2) * experts).sum(1)


class MMoE(_Embedded):
    """Multi-gate mixture of experts: shared experts, a gate and a tower per label (Ma et al., 2018, KDD).

    hidden: `backbone`, the mean over labels of what their towers read, and `gated_LABEL` for each.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 16,
        experts: int = 8,
        expert: Sequence[int] = (128,),
        tower: Sequence[int] = (64,),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(inputs, dim)
        self.experts = Experts(experts, self.width, expert, dropout)
        self.gates = nn.ModuleDict({label.name: nn.Linear(self.width, experts) for label in inputs.labels})
        self.towers = Towers(self.experts.width, tower, inputs.labels, dropout)

    def forward(self, batch: Batch) -> Output:
        inputs = self.embed(batch)
        experts = self.experts(inputs)
        gated = {name: mixed(gate, inputs, experts) for name, gate in self.gates.items()}
        backbone = torch.stack(list(gated.values())).mean(0)
        return Output(self.towers(gated), {"backbone": backbone, **{f"gated_{name}": v for name, v in gated.items()}})


class PLE(_Embedded):
    """Progressive layered extraction: each label has experts of its own beside the shared ones, in `levels` levels (Tang et
    al., 2020, RecSys). hidden: `backbone`, the mean over labels of what their towers read, and `gated_LABEL` for each.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        dim: int = 16,
        levels: int = 2,
        shared: int = 4,
        own: int = 2,
        expert: Sequence[int] = (96,),
        tower: Sequence[int] = (64,),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(inputs, dim)
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}")
        self.names = [label.name for label in inputs.labels]
        self.levels = nn.ModuleList()
        width = self.width
        for level in range(levels):
            last = level == levels - 1
            parts = nn.ModuleDict({"shared": Experts(shared, width, expert, dropout)})
            for name in self.names:
                parts[f"own_{name}"] = Experts(own, width, expert, dropout)
                parts[f"gate_{name}"] = nn.Linear(width, own + shared)
            if not last:  # nothing reads the shared path after the last level
                parts["gate_shared"] = nn.Linear(width, shared + own * len(self.names))
            self.levels.append(parts)
            width = parts["shared"].width
        self.towers = Towers(width, tower, inputs.labels, dropout)

    def forward(self, batch: Batch) -> Output:
        start = self.embed(batch)
        shared, readers = start, dict.fromkeys(self.names, start)
        for parts in self.levels:
            common = parts["shared"](shared)
            own = {name: parts[f"own_{name}"](readers[name]) for name in self.names}
            gated = {
                name: mixed(parts[f"gate_{name}"], readers[name], torch.cat([own[name], common], 1)) for name in self.names
            }
            if "gate_shared" in parts:
                shared = mixed(parts["gate_shared"], shared, torch.cat([common, *own.values()], 1))
            readers = gated
        backbone = torch.stack(list(readers.values())).mean(0)
        return Output(self.towers(readers), {"backbone": backbone, **{f"gated_{name}": v for name, v in readers.items()}})


class ESMM(SharedBottom):
    """Entire space: the label `after` can only follow the label `first`, so its probability over all rows is the product
    p(first) p(after | first), and no row is left out of its training (Ma et al., 2018, SIGIR).

    The served logit of `after` is the logit of that product. hidden: as of a shared bottom.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        first: str = "",
        after: str = "",
        dim: int = 4,
        bottom: Sequence[int] = (64,),
        tower: Sequence[int] = (16,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(inputs, dim=dim, bottom=bottom, tower=tower, dropout=dropout)
        binary = [label.name for label in inputs.labels if label.kind == "binary"]
        self.first, self.after = first or (binary or [""])[0], after or (binary[1:] or [""])[0]
        if self.first not in binary or (after and self.after not in binary):
            raise ValueError(f"first and after must be binary labels: {', '.join(binary) or 'there are none'}")

    def forward(self, batch: Batch) -> Output:
        output = super().forward(batch)
        if not self.after:  # one binary label only: nothing follows
            return output
        first, after = (output.logits[name].float() for name in (self.first, self.after))
        # log p = log sigma(first) + log sigma(after); its logit is log p - log(1 - p), stable by log(-expm1).
        log_p = nn.functional.logsigmoid(first) + nn.functional.logsigmoid(after)
        joint = log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-6)))
        return Output({**output.logits, self.after: joint}, output.hidden)
