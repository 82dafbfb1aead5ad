"""A loaded model: request in, ranked scores out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from recstill.api.errors import BundleError
from recstill.api.task import FeatureSpec
from recstill.data.bundle import ATTRIBUTION, Manifest, open_bundle
from recstill.data.transform import Encoded, Transform
from recstill.serving.catalogue import CatalogueIndex
from recstill.serving.lookup import FeatureLookup
from recstill.serving.request import ScoreRequest

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
    scored by a hashed id. missing_views: by view, how many rows it lacked. terms: (N, P), what the primary label's logit is the
    sum of, for models that say so; for others, where it is asked for, what each feature adds to it. remarks: by place in the
    request, what the row brought that training never saw.
    """

    scores: Mapping[str, NDArray[np.float32]]
    unknown_query: bool
    unknown_items: NDArray[np.bool_]
    unseen_query: bool
    unseen_items: NDArray[np.bool_]
    missing_views: Mapping[str, int]
    terms: NDArray[np.float32] | None = None
    remarks: Mapping[int, list[str]] = field(default_factory=dict)


class Graph:
    """The exported graph of a bundle, verified and loaded."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = open_bundle(folder)
        self._session = _open(folder / "model.onnx")
        self._attribution = _open(folder / ATTRIBUTION) if self.manifest.attributed else None
        self.transform = Transform.load(folder)
        dense, ids = (places(self.transform) for places in (self.manifest.sides.dense_places, self.manifest.sides.slot_places))
        widths = {"query_dense": dense[0], "item_dense": dense[1], "query_ids": ids[0], "item_ids": ids[1]}
        for entry in self._session.get_inputs():
            if entry.shape[1] != len(widths[entry.name]):
                raise BundleError(
                    f"{folder} was made by another version of recstill: its graph reads {entry.shape[1]} columns of "
                    f"{entry.name}, its features make {len(widths[entry.name])} here. Run its recipe again."
                )

    def run(self, query: Encoded, items: Encoded) -> dict[str, NDArray[np.float32]]:
        """Score N items against one query."""
        return dict(zip(self.manifest.outputs, _run(self._session, query, items), strict=True))

    def attributions(self, query: Encoded, items: Encoded) -> NDArray[np.float32] | None:
        """Return (N, features), what each of the manifest's `attributed` features adds to the primary label's logit against
        the mean training row; None for a model whose own terms say it."""
        if self._attribution is None:
            return None
        found: NDArray[np.float32] = _run(self._attribution, query, items)[0]
        return found


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, all of them meaning "this file is not right"
        raise BundleError(f"{path} cannot be loaded: {error}") from error


def _run(session: ort.InferenceSession, query: Encoded, items: Encoded) -> list[Any]:
    feed: dict[str, NDArray[Any]] = {
        "query_dense": query.dense, "query_ids": query.ids, "item_dense": items.dense, "item_ids": items.ids,
    }  # fmt: skip
    # The exporter drops inputs that are never read, such as the dense part of a query that has none.
    return list(session.run(None, {entry.name: feed[entry.name] for entry in session.get_inputs()}))


class Scorer:
    """A model version with its features. vectors: a file with the item vectors, if they were computed before."""

    def __init__(self, version: str, folder: Path, store: PackedStore, vectors: Path | None = None) -> None:
        self.version = version
        self.graph = Graph(folder)
        self.manifest = self.graph.manifest
        self.task = self.manifest.task
        self.features = FeatureLookup(self.manifest, self.graph.transform, store)
        self.store = store
        self._id_features = {feature.name for feature in self.graph.transform.features if feature.view == "key"}
        self.brought = self._brought()
        self.index = CatalogueIndex(self, vectors) if self.task.endpoint.catalogue else None

    def warm_up(self) -> None:
        """Score once, so that the first request does not pay for what is made lazily."""
        if self.index is None:
            ids = np.arange(1, min(200, self.task.endpoint.max_items) + 1)
            nothing = {name: _missing(spec, len(ids)) for name, spec in self.brought.items()}
            self.score(ScoreRequest(0, ids, {}, nothing, explain=bool(self.manifest.attributed)))
        else:
            self.rank(ScoreRequest(0, np.zeros(0, np.int64), {}, k=10))

    def score(self, request: ScoreRequest) -> Scored:
        """Score items for one query entity. Unknown entities are scored by their hashed ids and what features they have."""
        query, missing = self.features.query(request.entity, request.context)
        items, rows, counts = self.features.items(request.entity, request.items, request.context, request.rows)
        found = self.graph.run(query, items)
        terms = found.get("#parts")
        if request.explain and terms is None:
            terms = self.graph.attributions(query, items)
        endpoint, is_asked = self.task.endpoint, request.entity != ""
        unseen = is_asked and bool(endpoint.query_key) and self._unseen(endpoint.query_key, np.array([request.entity]))[0]
        return Scored(
            {label.name: found[label.name] for label in self.task.labels},
            bool(missing) and is_asked,
            rows < 0,
            bool(unseen),
            self._unseen(endpoint.item_key, request.items),
            {**(dict.fromkeys(missing, 1) if is_asked else {}), **counts},
            terms,
            self._remarks(request.rows),
        )

    def rank(self, request: ScoreRequest) -> tuple[Values, NDArray[np.float32], bool]:
        """Return the ids of the best items of the catalogue, their scores, and whether the query entity has no features."""
        assert self.index is not None
        query, missing = self.features.query(request.entity, request.context)
        items, _, _ = self.features.items(request.entity, self.index.ids[:1], request.context, {})
        ids, products = self.index.search(self.graph.run(query, items)["#query"], request.k, request.filters)
        scores = 1 / (1 + np.exp(-products)) if self.task.primary.kind == "binary" else products
        return ids, scores.astype(np.float32), bool(missing) and request.entity != ""

    def vectors(self, ids: Values) -> NDArray[np.float32]:
        """Return the item vectors (N, d) of a two-tower model."""
        items, _, _ = self.features.items("", ids)
        query, _ = self.features.query("", {})
        return self.graph.run(query, items)["#item"]

    def _brought(self) -> dict[str, FeatureSpec]:
        """What each item of a request may bring: features of view `row`, and join keys that no id gives."""
        endpoint, own = self.task.endpoint, set(self.manifest.sides.row)
        found = {feature.name: feature for feature in self.graph.transform.features if feature.name in own}
        keys = {key for view in self.manifest.features["views"] for key in view["join_keys"]}
        for key in sorted(keys - {endpoint.query_key, endpoint.item_key} - set(self.task.derived_keys)):
            found[key] = FeatureSpec(name=key, view="row", kind="categorical")
        return found

    def _remarks(self, rows: Mapping[str, Values]) -> dict[int, list[str]]:
        """Say, by place in the request, which brought values lie outside of what training saw. They are scored all the same: a
        number as the nearest one seen, a category as a rare one."""
        found: dict[int, list[str]] = {}
        for name in self.manifest.sides.row:
            spec, values = self.brought[name], rows[name]
            if spec.kind == "numeric":
                low, high = self.graph.transform.numeric[name].seen
                numbers = values.astype(np.float64)
                wrong = np.flatnonzero((numbers < low) | (numbers > high))
                text = f"{name} is outside of {low:g} to {high:g}, the values seen in training"
            elif spec.kind == "categorical":
                given = np.array([value is not None and value != "" for value in values.tolist()])
                wrong = np.flatnonzero(given & ~self.graph.transform.knows(name, values))
                text = f"{name} has a value that training never saw, or hardly ever"
            else:
                continue
            for place in wrong.tolist():
                found.setdefault(place, []).append(text)
        return found

    def _unseen(self, key: str, ids: Values) -> NDArray[np.bool_]:
        """Say which ids have no row of their own; none, for a model that does not look at them."""
        if key not in self._id_features:
            return np.zeros(len(ids), bool)
        return ~self.graph.transform.knows(key, ids)


def _missing(spec: FeatureSpec, count: int) -> Values:
    return np.full(count, np.nan) if spec.kind == "numeric" else np.full(count, None, dtype=object)
