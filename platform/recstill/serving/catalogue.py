"""The best of the whole catalogue: an exact index over item vectors that are computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.errors import BundleError, RequestError
from recstill.data.keys import to_keys
from recstill.serving.values import read_column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.data.columns import Values
    from recstill.serving.scorer import Scorer

_CHUNK = 4_096


class CatalogueIndex:
    """All items of a two-tower model's item view, by inner product (faiss, flat: exact).

    kept: a file that `vectors` (items, d) of this model and these online features were saved to; without, they are computed.
    """

    def __init__(self, scorer: Scorer, kept: Path | None = None) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._faiss, self._scorer = faiss, scorer
        view = scorer.features.item_view()
        if view is None or view.ids is None:
            raise BundleError(
                f"{scorer.version} ranks the whole catalogue, and the online features do not list it: "
                "run `recstill features materialize`."
            )
        self.ids: Values = view.ids.plain()
        self.vectors = np.load(kept) if kept is not None else self._computed()
        if self.vectors.shape[:1] != self.ids.shape:
            raise BundleError(f"{kept} holds {len(self.vectors):,} vectors, and there are {len(self.ids):,} items.")
        self._index = faiss.IndexFlatIP(self.vectors.shape[1])
        self._index.add(self.vectors)
        every = np.arange(len(self.ids))
        self._attributes = {name: view.read(name, every) for name in scorer.task.endpoint.filters}
        self._keys = {name: to_keys(attribute) for name, attribute in self._attributes.items()}
        self._masks: dict[tuple[str, int], NDArray[np.bool_]] = {}

    def _computed(self) -> NDArray[np.float32]:
        parts = [self._scorer.vectors(self.ids[start : start + _CHUNK]) for start in range(0, len(self.ids), _CHUNK)]
        return np.ascontiguousarray(np.concatenate(parts), np.float32)

    def search(self, vector: Any, k: int, filters: Mapping[str, Sequence[Any]]) -> tuple[Values, NDArray[np.float32]]:
        """Return the ids and inner products of the best `k` that pass all filters, best first; fewer if fewer pass."""
        chosen = None
        if filters:
            keep = np.ones(len(self.ids), bool)
            for name, wanted in filters.items():
                keep &= np.logical_or.reduce([self._mask(name, value) for value in wanted])
            k = min(k, int(keep.sum()))
            if not k:
                return self.ids[:0], np.zeros(0, np.float32)
            chosen = self._faiss.SearchParameters()
            chosen.sel = self._faiss.IDSelectorBatch(np.flatnonzero(keep))
        asked = np.ascontiguousarray(np.asarray(vector, np.float32).reshape(1, -1))
        scores, places = self._index.search(asked, min(k, len(self.ids)), params=chosen)
        return self.ids[places[0]], scores[0]

    def _mask(self, name: str, value: Any) -> NDArray[np.bool_]:
        attribute, most = self._attributes[name], self._scorer.task.endpoint.max_id_bytes
        asked = read_column([value], attribute.type, lambda _: f"Filter {name!r}", most)
        key = int(to_keys(asked)[0])
        if (name, key) not in self._masks:
            found = (self._keys[name] == np.uint64(key)) & (key != 0)
            if not found.any():
                known = sorted({str(one) for one in attribute.tolist() if one is not None and one != ""})[:10]
                raise RequestError(422, f"No item has {name} {value!r}; known are {', '.join(known)} …")
            self._masks[name, key] = found
        return self._masks[name, key]
