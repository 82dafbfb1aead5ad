"""An additive student: a curve per feature, some of them monotonic, whose values are the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recstill.api import JOINT, Batch, ModelInputs, Output
from recstill_rankers.heads import label_sizes, squeezed

if TYPE_CHECKING:
    from collections.abc import Sequence


class Surfaces(nn.Module):
    """A function of each of P pairs of numbers, bilinear between `knots` x `knots` points of their ranks (the GA2M of Lou et
    al., 2013, Accurate intelligible models with pairwise interactions). forward: positions (B, P, 2), from 0 to knots - 1 ->
    (B, outputs, P).

    signs (outputs, P): 1 or -1 where the function may only rise or fall with the first number of the pair, whatever the second.
    """

    def __init__(self, signs: Tensor, knots: int) -> None:
        super().__init__()
        self.register_buffer("signs", signs[:, :, None, None], persistent=False)
        self.register_buffer("places", torch.arange(knots).float(), persistent=False)
        self.signs: Tensor
        self.places: Tensor
        self.grid = nn.Parameter(torch.zeros(*signs.shape, knots, knots))
        with torch.no_grad():
            self.grid[:, :, 1:][(self.signs != 0).expand_as(self.grid)[:, :, 1:]] = -5.0  # softplus makes flat steps of it

    def values(self) -> Tensor:
        """Return the values at the knots (outputs, P, knots, knots)."""
        first, steps = self.grid[:, :, :1], F.softplus(self.grid[:, :, 1:])
        rising = torch.cat([first, first + self.signs * steps.cumsum(2)], 2)
        return torch.where(self.signs != 0, rising, self.grid)

    def forward(self, places: Tensor) -> Tensor:
        hats = torch.relu(1 - (places.unsqueeze(3) - self.places).abs())  # (B, P, 2, knots)
        return torch.einsum("bpi,bpj,opij->bop", hats[:, :, 0], hats[:, :, 1], self.values())


class AdditiveStudent(nn.Module):
    """z = bias + sum of one function per feature (a generalised additive model, Hastie & Tibshirani, 1986), and of `pairs`.

    A number's function is linear between `knots` points of its quantile rank, and has a value of its own where the number is
    missing; a category has one value. pairs: two numbers each, whose common function is bilinear between `pair_knots` points
    and zero where one is missing. increasing, decreasing: numbers with which the logit of the primary label may only rise or
    fall, exactly. Output.parts: the terms of the primary label, in the order of `part_names`. hidden: `backbone`, all terms.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        *,
        knots: int = 16,
        increasing: Sequence[str] = (),
        decreasing: Sequence[str] = (),
        pairs: Sequence[Sequence[str]] = (),
        pair_knots: int = 6,
    ) -> None:
        super().__init__()
        if min(knots, pair_knots) < 2:
            raise ValueError(f"knots and pair_knots must be 2 or more, not {min(knots, pair_knots)}")
        columns: dict[str, list[int]] = {}
        for place, name in enumerate(inputs.dense_names):
            columns.setdefault(name, []).append(place)
        numbers = list(columns)
        if strange := sorted({*increasing, *decreasing} - set(numbers)):
            raise ValueError(
                f"increasing, decreasing: {', '.join(strange)}: no such numeric feature; it sees {', '.join(numbers)}"
            )
        if both := sorted(set(increasing) & set(decreasing)):
            raise ValueError(f"{', '.join(both)} cannot both rise and fall")
        ordered = _ordered(pairs, numbers, {*increasing, *decreasing})
        self.sizes = label_sizes(inputs.labels)
        self.primary = next(label.name for label in inputs.labels if label.primary)
        row, outputs = list(self.sizes).index(self.primary), sum(self.sizes.values())
        self.row = sum(list(self.sizes.values())[:row])
        joint = (JOINT.join(pair) for pair in ordered)
        self.part_names = (*numbers, *(slot.name for slot in inputs.slots), *joint)
        self.register_buffer("ranks", torch.tensor([columns[n][1] for n in numbers], dtype=torch.long), persistent=False)
        flags = [columns[n][2] if len(columns[n]) > 2 else -1 for n in numbers]
        self.register_buffer("flags", torch.tensor([max(flag, 0) for flag in flags], dtype=torch.long), persistent=False)
        self.register_buffer("has_flag", torch.tensor([float(flag >= 0) for flag in flags]), persistent=False)
        signs = torch.zeros(outputs, len(numbers), 1)
        for place, name in enumerate(numbers):
            signs[self.row, place] = 1.0 if name in increasing else -1.0 if name in decreasing else 0.0
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("places", torch.arange(knots).float(), persistent=False)
        self.ranks: Tensor
        self.flags: Tensor
        self.has_flag: Tensor
        self.signs: Tensor
        self.places: Tensor
        self.knots = nn.Parameter(torch.zeros(outputs, len(numbers), knots))
        with torch.no_grad():
            self.knots[signs.expand_as(self.knots) != 0] = -3.0  # softplus makes nearly flat steps of it
        self.absent = nn.Parameter(torch.zeros(outputs, len(numbers)))
        self.tables = inputs.tables(4) if inputs.slots else None
        self.read = nn.Parameter(torch.randn(outputs, len(inputs.slots), 4) * 0.1)
        self.bias = nn.Parameter(torch.zeros(outputs))
        members = [[numbers.index(name) for name in pair] for pair in ordered]
        self.register_buffer("members", torch.tensor(members, dtype=torch.long).reshape(-1, 2), persistent=False)
        self.members: Tensor
        first = torch.tensor([a for a, _ in members], dtype=torch.long)
        self.surfaces = Surfaces(signs[:, first, 0], pair_knots) if members else None

    def curves(self) -> Tensor:
        """Return the values at the knots (outputs, numbers, knots)."""
        steps = F.softplus(self.knots)
        rising = self.signs * (steps.cumsum(2) - steps.sum(2, keepdim=True) / 2)
        return torch.where(self.signs != 0, rising, self.knots)

    def forward(self, batch: Batch) -> Output:
        rank = batch.dense.index_select(1, self.ranks)
        flag = batch.dense.index_select(1, self.flags) * self.has_flag
        share = (rank.clamp(-1, 1) + 1) / 2
        place = share * (len(self.places) - 1)
        hats = torch.relu(1 - (place.unsqueeze(2) - self.places).abs())  # (B, numbers, knots), linear between knots
        numbers = (hats.unsqueeze(1) * self.curves()).sum(3)
        terms = numbers * (1 - flag).unsqueeze(1) + self.absent * flag.unsqueeze(1)
        if self.tables is not None:
            vectors = self.tables(batch.sparse).to(terms.dtype)
            terms = torch.cat([terms, (vectors.unsqueeze(1) * self.read).sum(3)], 2)
        if self.surfaces is not None:
            both = (1 - flag).index_select(1, self.members.flatten()).unflatten(1, (-1, 2)).prod(2)
            at = share.index_select(1, self.members.flatten()).unflatten(1, (-1, 2))
            terms = torch.cat([terms, self.surfaces(at * (len(self.surfaces.places) - 1)) * both.unsqueeze(1)], 2)
        logits = terms.sum(2) + self.bias
        split = zip(self.sizes, torch.split(logits, list(self.sizes.values()), 1), strict=True)
        said = {name: squeezed(part) for name, part in split}
        return Output(said, {"backbone": terms.flatten(1)}, parts={self.primary: terms[:, self.row]})


def _ordered(pairs: Sequence[Sequence[str]], numbers: Sequence[str], monotonic: set[str]) -> list[tuple[str, str]]:
    """Return each pair with the number first that only rises or falls. Raise ValueError for pairs that cannot be."""
    found = []
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(numbers):
            raise ValueError(f"pairs: {list(pair)}: write two different numeric features; it sees {', '.join(numbers)}")
        if set(pair) <= monotonic:
            raise ValueError(f"pairs: {list(pair)}: one of the two may be increasing or decreasing, not both")
        first, second = sorted(pair, key=lambda name: name not in monotonic)
        found.append((first, second))
    return found
