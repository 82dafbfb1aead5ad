"""From looked-up vectors to one per slot: what every set of tables does the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.api.models import Slot


def pool(vectors: Tensor, present: Tensor, slots: Sequence[Slot], widths: Sequence[int], expand: bool) -> Tensor:
    """Return (B, F, dim) from vectors (B, P, dim) whose slots take `widths` places each: the mean over what is present.

    present: (B, P), above 0 where there is an id. expand: keep the positions of sequences apart, zero where there is none.
    """
    if all(slot.width == 1 for slot in slots):
        return vectors
    parts, start = [], 0
    for slot, width in zip(slots, widths, strict=True):
        part = vectors[:, start : start + width]
        if slot.width > 1:
            here = (present[:, start : start + width] > 0).unsqueeze(2).to(part.dtype)
            part = part * here
            if not (expand and slot.kind == "sequence"):
                part = part.sum(1, keepdim=True) / here.sum(1, keepdim=True).clamp(min=1)
        parts.append(part)
        start += width
    return torch.cat(parts, 1)


def present_by_position(present: Tensor, slots: Sequence[Slot], widths: Sequence[int]) -> Tensor:
    """Return (B, P) float, 1 where there is an id: a place for each slot, and for each position of a sequence."""
    parts, start = [], 0
    for slot, width in zip(slots, widths, strict=True):
        part = (present[:, start : start + width] > 0).float()
        if slot.kind != "sequence":
            part = part.amax(1, keepdim=True) if slot.kind == "bag" else torch.ones_like(part)
        parts.append(part)
        start += width
    return torch.cat(parts, 1)
