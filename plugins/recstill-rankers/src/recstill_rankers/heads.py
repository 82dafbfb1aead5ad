"""What all rankers share: the multi-layer body and one head per label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.api import LabelSpec


class Body(nn.Module):
    """Linear layers with ReLU and dropout. forward: (B, width) -> (B, last); `layers` gives what every layer says too."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.linears = nn.ModuleList()
        for size in hidden:
            self.linears.append(nn.Linear(width, size))
            width = size
        self.dropout = nn.Dropout(dropout)
        self.width = width

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return {`layer1`: (B, first), ..., `backbone`: (B, last)}."""
        said, current = {}, inputs
        for place, linear in enumerate(self.linears, 1):
            current = self.dropout(torch.relu(linear(current)))
            said[f"layer{place}"] = current
        said.pop(f"layer{len(self.linears)}", None)
        return {**said, "backbone": current}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)["backbone"]


class Heads(nn.Module):
    """One linear layer for all labels. forward: (B, width) -> {label: (B,) or (B, C)}."""

    def __init__(self, width: int, labels: Sequence[LabelSpec]) -> None:
        super().__init__()
        self.sizes = label_sizes(labels)
        self.linear = nn.Linear(width, sum(self.sizes.values()))

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        parts = torch.split(self.linear(hidden), list(self.sizes.values()), 1)
        return {name: squeezed(part) for name, part in zip(self.sizes, parts, strict=True)}


class Towers(nn.Module):
    """A body and a linear layer of its own for each label. forward: {label: (B, width)} -> {label: (B,) or (B, C)}."""

    def __init__(self, width: int, hidden: Sequence[int], labels: Sequence[LabelSpec], dropout: float) -> None:
        super().__init__()
        self.sizes = label_sizes(labels)
        self.towers = nn.ModuleDict()
        for name, size in self.sizes.items():
            tower = Body(width, hidden, dropout)
            self.towers[name] = nn.Sequential(tower, nn.Linear(tower.width, size))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: squeezed(tower(inputs[name])) for name, tower in self.towers.items()}


def label_sizes(labels: Sequence[LabelSpec]) -> dict[str, int]:
    """Return how many logits each label has."""
    return {label.name: label.num_classes if label.kind == "multiclass" else 1 for label in labels}


def squeezed(part: Tensor) -> Tensor:
    """Return (B, 1) as (B,), and (B, C) as it is."""
    return part.squeeze(1) if part.shape[1] == 1 else part
