"""Rows of a retrieval task: positives as they lie in the snapshot, negatives and lists drawn as training goes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recstill.api.batch import Batch
from recstill.embeddings.batches import jagged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from recstill.api.models import Slot


@dataclass(frozen=True)
class Side:
    """All queries or all items of a catalogue, encoded: dense (N, D), ids (N, S), and where these columns stand in a row."""

    dense: Tensor
    ids: Tensor
    dense_places: Sequence[int]
    slot_places: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Catalogue:
    """Every query and item. The row id of a pair is query * number of items + item.

    attributes: {name: (items,)}, such as popularity.
    """

    queries: Side
    items: Side
    slots: tuple[Slot, ...]
    attributes: Mapping[str, Tensor] = field(default_factory=dict)

    def pairs(self, query: Tensor, item: Tensor, labels: Mapping[str, Tensor], groups: Tensor | None) -> Batch:
        """Put queries (B,) and items (B,) together as rows."""
        num_dense = len(self.queries.dense_places) + len(self.items.dense_places)
        num_ids = len(self.queries.slot_places) + len(self.items.slot_places)
        dense, ids = torch.empty(len(query), num_dense), torch.empty(len(query), num_ids, dtype=self.queries.ids.dtype)
        for side, rows in ((self.queries, query), (self.items, item)):
            dense[:, side.dense_places] = side.dense[rows]
            ids[:, side.slot_places] = side.ids[rows]
        return Batch(
            dense=dense,
            sparse=jagged(ids, self.slots),
            labels=labels,
            row_ids=query * len(self.items) + item,
            groups=groups,
            attributes={name: values[item] for name, values in self.attributes.items()},
        )

    def split(self, row_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the query and the item of each pair."""
        return row_ids // len(self.items), row_ids % len(self.items)

    def sweep(self, batch_size: int = 8192) -> Iterator[Batch]:
        """Yield batches that hold every query and every item at least once: row i has query i and item i, each capped."""
        count = max(len(self.queries), len(self.items))
        for start in range(0, count, batch_size):
            place = torch.arange(start, min(start + batch_size, count))
            yield self.pairs(place.clamp(max=len(self.queries) - 1), place.clamp(max=len(self.items) - 1), {}, None)


@dataclass(frozen=True)
class ListSampler:
    """Lists that a teacher speaks about: its own top items of a query, and items drawn uniformly.

    top: (queries, K) item numbers, best first.
    """

    top: Tensor
    queries: int
    random: int

    def draw(self, num_items: int) -> tuple[Tensor, Tensor]:
        """Return queries (Q,) and their items (Q, K + random)."""
        query = torch.randint(0, len(self.top), (self.queries,))
        # One random set for all lists of the step: its vectors stay in the processor's cache.
        shared = torch.randint(0, num_items, (self.random,)).expand(self.queries, -1)
        return query, torch.cat([self.top[query].long(), shared], 1)


@dataclass(frozen=True)
class CatalogueRows:
    """Positives (N, 2) of a retrieval task as training rows.

    A batch has each positive followed by its negatives (one list each), and then, with a sampler, the lists of queries whose
    labels are NaN.
    """

    catalogue: Catalogue
    positives: Tensor
    known: Tensor  # sorted row ids that are no negatives
    label: str
    negatives: int = 1
    lists: ListSampler | None = None

    def __len__(self) -> int:
        return len(self.positives)

    @property
    def device(self) -> torch.device:
        return self.positives.device

    def with_lists(self, lists: ListSampler) -> CatalogueRows:
        """Return these rows with lists in every batch."""
        return replace(self, lists=lists)

    def order(self, generator: torch.Generator) -> Tensor:
        """Return the positives in the order of an epoch."""
        return torch.randperm(len(self), generator=generator)

    def batch(self, rows: Tensor) -> Batch:
        """Draw negatives for some positives, and lists."""
        query, item = self.positives[rows].unbind(1)
        negative = self._negatives(query)
        size = 1 + self.negatives
        queries = query.repeat_interleave(size)
        items = torch.cat([item.unsqueeze(1), negative], 1).reshape(-1)
        labels = torch.zeros(len(rows), size)
        labels[:, 0] = 1.0
        labels = labels.reshape(-1)
        groups = torch.arange(len(rows)).repeat_interleave(size)
        if self.lists is not None:
            listed, candidates = self.lists.draw(len(self.catalogue.items))
            length = candidates.shape[1]
            queries = torch.cat([queries, listed.repeat_interleave(length)])
            items = torch.cat([items, candidates.reshape(-1)])
            labels = torch.cat([labels, torch.full((candidates.numel(),), torch.nan)])
            groups = torch.cat([groups, len(rows) + torch.arange(len(listed)).repeat_interleave(length)])
        return self.catalogue.pairs(queries, items, {self.label: labels}, groups)

    def _negatives(self, query: Tensor) -> Tensor:
        num_items = len(self.catalogue.items)
        drawn = torch.randint(0, num_items, (len(query), self.negatives))
        for _ in range(5):  # a known item is drawn again; after five rounds fewer than one in a million is left
            keys = query.unsqueeze(1) * num_items + drawn
            place = torch.searchsorted(self.known, keys).clamp(max=len(self.known) - 1)
            clash = self.known[place] == keys
            if not bool(clash.any()):
                break
            drawn = torch.where(clash, torch.randint(0, num_items, drawn.shape), drawn)
        return drawn
