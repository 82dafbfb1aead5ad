"""What all rankers share: the multi-layer body and one head per label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.api import LabelSpec


class AdaptedLinear(nn.Linear):
    """A linear layer with a low-rank correction, W + up down, that starts at zero (LoRA, Hu et al., 2022).

    Its base has the names of a plain layer, so it starts from one's weights; freeze `*.weight` and `*.bias` to train the
    correction alone.
    """

    def __init__(self, width: int, size: int, rank: int) -> None:
        super().__init__(width, size)
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(size, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight + self.up @ self.down, self.bias)


class Body(nn.Module):
    """Linear layers with ReLU and dropout. forward: (B, width) -> (B, last); `layers` gives what every layer says too."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float, adapter_rank: int = 0) -> None:
        super().__init__()
        self.linears = nn.ModuleList()
        for size in hidden:
            self.linears.append(AdaptedLinear(width, size, adapter_rank) if adapter_rank else nn.Linear(width, size))
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

    @torch.no_grad()
    def narrow(self, share: float, reader: nn.Linear, offset: int = 0) -> list[int]:
        """Remove this share of each layer's units, those of least weight, in place; return the sizes that are left.

        A unit weighs what it reads times what the next layer reads of it. reader: the layer that reads the body's answer,
        in its columns from `offset` on.
        """
        sizes = []
        for place, linear in enumerate(self.linears):
            last = place == len(self.linears) - 1
            following, start = (reader, offset) if last else (self.linears[place + 1], 0)
            read = following.weight[:, start : start + linear.out_features]
            kept = max(1, round(linear.out_features * (1 - share)))
            units = (linear.weight.norm(dim=1) * read.norm(dim=0)).topk(kept).indices.sort().values
            columns = torch.cat([
                torch.arange(start), start + units, torch.arange(start + linear.out_features, following.in_features)
            ])  # fmt: skip
            linear.weight, linear.bias = nn.Parameter(linear.weight[units]), nn.Parameter(linear.bias[units])
            linear.out_features = kept
            following.weight, following.in_features = nn.Parameter(following.weight[:, columns]), len(columns)
            sizes.append(kept)
        self.width = sizes[-1] if sizes else self.width
        return sizes


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
