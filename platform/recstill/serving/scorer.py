"""A loaded model: request in, ranked scores out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from recstill.api.errors import BundleError
from recstill.data.bundle import Manifest, open_bundle
from recstill.data.transform import Encoded, Transform
from recstill.serving.lookup import FeatureLookup

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.data.encoders import Values
    from recstill.data.packed import PackedStore


@dataclass(frozen=True)
class Scored:
    """Scores {label: (N,)} in the order of the request, and what they rest on.

    unknown: entities without any features. unseen: entities whose id training never saw often enough to learn it; they are
    scored by a hashed id. missing_views: by view, how many rows it lacked.
    """

    scores: Mapping[str, NDArray[np.float32]]
    unknown_query: bool
    unknown_items: NDArray[np.bool_]
    unseen_query: bool
    unseen_items: NDArray[np.bool_]
    missing_views: Mapping[str, int]


class Graph:
    """The exported graph of a bundle, verified and loaded."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = open_bundle(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own types, all of them meaning "this file is not right"
            raise BundleError(f"{folder / 'model.onnx'} cannot be loaded: {error}") from error

        self.transform = Transform.load(folder)
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def run(self, query: Encoded, items: Encoded) -> dict[str, NDArray[np.float32]]:
        """Score N items against one query."""
        feed: dict[str, NDArray[Any]] = {
            "query_dense": query.dense, "query_ids": query.ids, "item_dense": items.dense, "item_ids": items.ids,
        }  # fmt: skip
        # The exporter drops inputs that are never read, such as the dense part of a query that has none.
        outputs = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return dict(zip(self.manifest.outputs, outputs, strict=True))


class Scorer:
    """A model version with its features."""

    def __init__(self, version: str, folder: Path, store: PackedStore) -> None:
        self.version = version
        self.graph = Graph(folder)
        self.manifest = self.graph.manifest
        self.task = self.manifest.task
        self.features = FeatureLookup(self.manifest, self.graph.transform, store)
        self.store = store
        self._id_features = {feature.name for feature in self.graph.transform.features if feature.view == "key"}

    def score(self, entity: int | str, ids: Values, context: Mapping[str, int | float | str | None]) -> Scored:
        """Score items for one query entity. Unknown entities are scored by their hashed ids and what features they have."""
        query, missing = self.features.query(entity, context)
        items, rows, counts = self.features.items(entity, ids)
        scores = self.graph.run(query, items)
        endpoint = self.task.endpoint
        return Scored(
            scores,
            bool(missing),
            rows < 0,
            bool(self._unseen(endpoint.query_key, np.array([entity]))[0]),
            self._unseen(endpoint.item_key, ids),
            {**dict.fromkeys(missing, 1), **counts},
        )

    def _unseen(self, key: str, ids: Values) -> NDArray[np.bool_]:
        """Say which ids have no row of their own; none, for a model that does not look at them."""
        if key not in self._id_features:
            return np.zeros(len(ids), bool)
        return ~self.graph.transform.knows(key, ids)
