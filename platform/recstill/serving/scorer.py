"""A loaded model: request in, ranked scores out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from recstill.api.errors import BundleError, RequestError
from recstill.api.task import FeatureSpec
from recstill.data.bundle import ATTRIBUTION, Manifest, open_bundle
from recstill.data.columns import column_of
from recstill.data.transform import Encoded, Transform
from recstill.serving.catalogue import CatalogueIndex
from recstill.serving.lookup import FeatureLookup
from recstill.serving.remarks import Remarks
from recstill.serving.request import ScoreRequest
from recstill.serving.values import absent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.data.columns import Typed, Values
    from recstill.data.packed import PackedStore
    from recstill.serving.lookup import Rows


@dataclass(frozen=True)
class Scored:
    """Scores {label: (N,)} in the order of the request, and what they rest on.

    unknown: entities without any features. unseen: entities whose id training never saw often enough to learn it; they are
    scored by a hashed id. missing_views: by view, how many rows it lacked. terms: (N, P), what the primary label's logit is the
    sum of, for models that say so; for others, where it is asked for, what each feature adds to it. remarks: by place in the
    request, what the row brought, or lacked, that training never saw. context_remarks: the same of the context.
    nothing_known: items of which neither the request nor the feature store says anything. given: with reasons, the values that
    the features of the items had, by feature.
    """

    scores: Mapping[str, NDArray[np.float32]]
    unknown_query: bool
    unknown_items: NDArray[np.bool_]
    unseen_query: bool
    unseen_items: NDArray[np.bool_]
    missing_views: Mapping[str, int]
    terms: NDArray[np.float32] | None = None
    remarks: Mapping[int, list[str]] = field(default_factory=dict)
    context_remarks: Sequence[str] = ()
    nothing_known: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    given: Mapping[str, Sequence[Any]] = field(default_factory=dict)


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
        self.types = self.features.types
        self.brought = self._brought()
        self.remarks = Remarks(self.manifest, self.graph.transform)
        self.index = CatalogueIndex(self, vectors) if self.task.endpoint.catalogue else None

    def warm_up(self) -> None:
        """Score once, so that the first request does not pay for what is made lazily."""
        if self.index is None:
            count = min(200, self.task.endpoint.max_items)
            nothing = {name: absent(self.types[name], count) for name in self.brought}
            ids = column_of(self.types[self.task.endpoint.item_key], [None] * count)
            self.score(ScoreRequest(None, ids, {}, nothing, explain=bool(self.manifest.attributed)))
        else:
            self.rank(ScoreRequest(None, np.zeros(0, np.int64), {}, k=10))

    def score(self, request: ScoreRequest) -> Scored:
        """Score items for one query entity. Unknown entities are scored by their hashed ids and what features they have."""
        entity = self.features.entity(request.entity)
        query, missing = self.features.query(entity, request.context)
        items, rows, counts = self.features.items(entity, request.items, request.context, request.rows)
        empty = self._nothing_known(request, rows)
        found = self.graph.run(query, items)
        terms = found.get("#parts")
        if request.explain and terms is None:
            terms = self.graph.attributions(query, items)
        endpoint, is_asked = self.task.endpoint, not entity.is_missing[0]
        unseen = is_asked and bool(endpoint.query_key) and self._unseen(endpoint.query_key, entity)[0]
        return Scored(
            {label.name: found[label.name] for label in self.task.labels},
            bool(missing) and is_asked,
            rows < 0,
            bool(unseen),
            self._unseen(endpoint.item_key, request.items),
            {**(dict.fromkeys(missing, 1) if is_asked else {}), **counts},
            terms,
            self.remarks.of_items(request.rows, empty),
            self.context_remarks(request.context),
            empty,
            self._given(request, rows) if request.explain else {},
        )

    def rank(self, request: ScoreRequest) -> tuple[Values, NDArray[np.float32], bool]:
        """Return the ids of the best items of the catalogue, their scores, and whether the query entity has no features."""
        assert self.index is not None
        entity = self.features.entity(request.entity)
        query, missing = self.features.query(entity, request.context)
        items, _, _ = self.features.items(entity, self.index.ids[:1], request.context, {})
        ids, products = self.index.search(self.graph.run(query, items)["#query"], request.k, request.filters)
        scores = 1 / (1 + np.exp(-products)) if self.task.primary.kind == "binary" else products
        return ids, scores.astype(np.float32), bool(missing) and not entity.is_missing[0]

    def vectors(self, ids: Values) -> NDArray[np.float32]:
        """Return the item vectors (N, d) of a two-tower model."""
        items, _, _ = self.features.items(None, ids)
        query, _ = self.features.query(None, {})
        return self.graph.run(query, items)["#item"]

    def _brought(self) -> dict[str, FeatureSpec]:
        """What each item of a request may bring: features of view `row`, and join keys that no id gives."""
        endpoint, own = self.task.endpoint, set(self.manifest.sides.row)
        found = {feature.name: feature for feature in self.graph.transform.features if feature.name in own}
        keys = {key for view in self.manifest.features["views"] for key in view["join_keys"]}
        for key in sorted(keys - {endpoint.query_key, endpoint.item_key} - set(self.task.derived_keys)):
            found[key] = FeatureSpec(name=key, view="row", kind="categorical")
        return found

    def _nothing_known(self, request: ScoreRequest, rows: Rows) -> NDArray[np.bool_]:
        """Say of which items neither the request nor the feature store says anything. Raise RequestError with 422 where the
        task refuses them. rows: the items' places in the feature store, -1 where it has none."""
        empty = self.remarks.says_nothing(request.rows, len(request.items))
        endpoint = self.task.endpoint
        if self.features.item_view() is not None:
            empty &= rows < 0
        if endpoint.item_key in self._id_features:
            empty &= self._unseen(endpoint.item_key, request.items)
        if empty.any():
            places = np.flatnonzero(empty)
            empty[places] = ~self.features.crossed(request.entity, request.items, request.rows, places)
        if endpoint.nothing_known == "refuse" and empty.any():
            index = int(np.flatnonzero(empty)[0])
            fields = ", ".join(sorted(self.manifest.sides.row))
            raise RequestError(422, f"{endpoint.items_field}[{index}]: nothing is known of it; give at least one of {fields}.")
        return empty

    def context_remarks(self, context: Mapping[str, Any]) -> list[str]:
        """Say which fields of the context lie outside of what training saw."""
        return self.remarks.of_context(self.features.context(context))

    def _given(self, request: ScoreRequest, rows: Rows) -> dict[str, list[Any]]:
        """Return the values of the items' features, as the request or the feature store has them."""
        values: dict[str, list[Any]] = {}
        for name in (*self.manifest.sides.row, *self.manifest.sides.items[1]):
            known = request.rows[name] if name in request.rows else self.features.texts(name, rows)
            values[name] = known.tolist()
        return values

    def _unseen(self, key: str, ids: Typed | Values) -> NDArray[np.bool_]:
        """Say which ids have no row of their own; none, for a model that does not look at them."""
        if key not in self._id_features:
            return np.zeros(len(ids), bool)
        return ~self.graph.transform.knows(key, ids)
