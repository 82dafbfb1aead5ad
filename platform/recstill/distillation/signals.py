"""Where the signals of a batch come from: the store, the vectors of a two-tower teacher, or the live teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from recstill.api.batch import Batch, Signals
from recstill.api.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.distillation.store import SignalStore


class SignalSource(Protocol):
    """Gives the signals of a batch; `coverage` is the share of the training rows that have any."""

    @property
    def coverage(self) -> float: ...

    def of(self, batch: Batch) -> Signals: ...


class RowSignals:
    """Stored signals by row id, read where they lie: a batch gathers its rows from the mapped files."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> None:
        self.card = card
        row_ids = torch.from_numpy(arrays["row_id"])
        self._place = torch.full((card["num_snapshot_rows"],), -1, dtype=torch.int32)
        self._place[row_ids] = torch.arange(len(row_ids), dtype=torch.int32)
        self._logits = {label: torch.from_numpy(arrays[f"logit_{label}"]) for label in card["labels"]}
        self._hidden = {name: torch.from_numpy(arrays[f"hidden_{name}"]) for name in card["hidden"]}
        self.coverage = float((self._place >= 0).float().mean())

    def covered(self, row_ids: Tensor) -> float:
        """Return the share of these rows that have signals."""
        return float((self._place[row_ids] >= 0).float().mean()) if len(row_ids) else 1.0

    def of(self, batch: Batch) -> Signals:
        place = self._place[_ids(batch)].long()
        mask = (place >= 0).float()
        rows = place.clamp(min=0)
        return Signals(
            {label: values[rows].float() for label, values in self._logits.items()},
            mask,
            {name: values[rows].float() for name, values in self._hidden.items()},
            sampling_rate=float(self.card["sampling_rate"]),
        )


class CatalogueSignals:
    """Stored vectors of a two-tower teacher: they answer for every pair. top: (queries, K) best items of each query.

    Where a batch has lists (rows without labels), the teacher speaks about those only: they are what it is asked for.
    """

    coverage = 1.0

    def __init__(self, queries: Tensor, items: Tensor, top: Tensor, label: str) -> None:
        self.queries, self.items, self.top, self.label = queries, items, top, label

    def of(self, batch: Batch) -> Signals:
        row_ids = _ids(batch)
        query, item = row_ids // len(self.items), row_ids % len(self.items)
        listed = torch.isnan(batch.labels[self.label])
        mask = listed.float() if bool(listed.any()) else torch.ones(len(row_ids))
        asked = torch.nonzero(mask).squeeze(1)
        logits = torch.zeros(len(row_ids))
        logits[asked] = self._scores(query[asked], item[asked])
        return Signals({self.label: logits}, mask, _Vectors({"query": (self.queries, query), "item": (self.items, item)}))

    def _scores(self, query: Tensor, item: Tensor) -> Tensor:
        """Return the dot product of each pair. Lists repeat few queries and items: one small matrix product of the distinct
        ones costs a tenth of gathering both vectors of every pair."""
        queries, query_place = torch.unique(query, return_inverse=True)
        items, item_place = torch.unique(item, return_inverse=True)
        if len(queries) * len(items) > 64 * len(query):
            return (self.queries[query].float() * self.items[item].float()).sum(1)
        table = self.queries[queries].float() @ self.items[items].float().t()
        return table[query_place, item_place]


class _Vectors(Mapping[str, Tensor]):
    """Vectors of the rows by name, gathered when a strategy asks for them."""

    def __init__(self, sources: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._sources = sources

    def __getitem__(self, name: str) -> Tensor:
        table, rows = self._sources[name]
        return table[rows].float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


class LiveSignals:
    """The teacher itself, asked at every step. rows_of: the batch as the teacher sees it, by row ids."""

    coverage = 1.0

    def __init__(self, teacher: nn.Module, rows_of: Callable[[Tensor], Batch], sampling_rate: float = 1.0) -> None:
        self.teacher, self.rows_of, self.sampling_rate = teacher.eval(), rows_of, sampling_rate

    @torch.no_grad()
    def of(self, batch: Batch) -> Signals:
        output = self.teacher(self.rows_of(_ids(batch)))
        mask = torch.ones(len(batch.dense))
        return Signals(output.logits, mask, output.hidden, output.attention, self.sampling_rate)


@dataclass(frozen=True)
class Committee:
    """Several teachers: the first one's signals, with those of the others beside them."""

    members: Sequence[SignalSource]

    @property
    def coverage(self) -> float:
        return min(member.coverage for member in self.members)

    def of(self, batch: Batch) -> Signals:
        first, *others = (member.of(batch) for member in self.members)
        return replace(first, others=tuple(others))


def open_signals(store: SignalStore, snapshot_sha256: str) -> RowSignals | CatalogueSignals:
    """Open complete signals. Raise DataError if they are absent, unfinished, or of a snapshot that has changed since."""
    card = store.card
    if card is None or not card["complete"]:
        raise DataError(
            f"The signals of teacher {store.key.teacher} for snapshot {store.key.snapshot} are "
            f"{'not there' if card is None else 'unfinished'}. Run the recipe's score stage: `recstill signals score`."
        )
    if card["snapshot_sha256"] != snapshot_sha256:
        raise DataError(f"{store.folder} was scored on other rows than snapshot {store.key.snapshot} has now. Score again.")
    if card["kind"] == "catalogue":
        queries, items, top = store.read("query"), store.read("item"), store.read("top")
        if queries is None or items is None or top is None:
            raise DataError(f"{store.folder} lacks vectors. Delete it and score again.")
        vectors = [torch.from_numpy(array) for array in (queries["vector"], items["vector"], top["items"])]
        return CatalogueSignals(vectors[0], vectors[1], vectors[2], card["labels"][0])
    arrays = store.read("rows")
    if arrays is None:
        raise DataError(f"{store.folder} has no rows. Delete it and score again.")
    return RowSignals(arrays, card)


def age_in_days(card: Mapping[str, Any]) -> float:
    """Return how long ago the oldest part was scored."""
    oldest = min(datetime.fromisoformat(part["scored_at"]) for part in card["parts"].values())
    return (datetime.now(UTC) - oldest).total_seconds() / 86_400


def _ids(batch: Batch) -> Tensor:
    assert batch.row_ids is not None
    return batch.row_ids
