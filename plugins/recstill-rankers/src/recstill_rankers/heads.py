"""What all rankers share: the multi-layer body and one head per label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.api import LabelSpec


def body(width: int, hidden: Sequence[int], dropout: float) -> tuple[nn.Sequential, int]:
    """Return linear, ReLU and dropout layers, and the width of what they give."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers), width


class Heads(nn.Module):
    """One linear layer for all labels. forward: (B, width) -> {label: (B,) or (B, C)}."""

    def __init__(self, width: int, labels: Sequence[LabelSpec]) -> None:
        super().__init__()
        self.sizes = {label.name: label.num_classes if label.kind == "multiclass" else 1 for label in labels}
        self.linear = nn.Linear(width, sum(self.sizes.values()))

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        parts = torch.split(self.linear(hidden), list(self.sizes.values()), 1)
        return {
            name: part.squeeze(1) if size == 1 else part for (name, size), part in zip(self.sizes.items(), parts, strict=True)
        }
