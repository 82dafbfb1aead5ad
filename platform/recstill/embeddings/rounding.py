"""Eight-bit weights: symmetric, a scale per row of a matrix (Jacob et al., 2018, Quantization and training of neural networks
for efficient integer-arithmetic-only inference)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVELS = 127


def to_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 values (N, dim) and float16 scales (N, 1) whose product is nearest to float rows (N, dim)."""
    scale = (rows.abs().amax(-1, keepdim=True) / _LEVELS).clamp(min=6.2e-5).half()  # the smallest normal half
    values = (rows / scale.float()).round().clamp(-_LEVELS, _LEVELS)
    return values.to(torch.int8), scale


def rounded(rows: Tensor) -> Tensor:
    """Return float rows (..., dim) as eight bits hold them; gradients pass as if nothing had happened."""
    values, scale = to_int8(rows.detach().float())
    return rows + (values.float() * scale.float() - rows.detach()).to(rows.dtype)


class Int8Embedding(nn.Module):
    """A table that exports as int8 rows and their scales. forward: ids -> float32 vectors."""

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_rows, dim, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(num_rows, 1, dtype=torch.float16))
        self.weight: Tensor
        self.scale: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float() * F.embedding(ids, self.scale).float()


class _Rounded(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return rounded(weight)


def round_linears(model: nn.Module) -> list[nn.Module]:
    """Let every linear layer compute with its weight rounded, while the weight itself trains on; return the layers."""
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Rounded())
    return layers


def keep_rounded(layers: Sequence[nn.Module]) -> None:
    """Put the rounded weights in the place of those that trained."""
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
