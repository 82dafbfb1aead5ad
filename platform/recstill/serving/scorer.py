"""A loaded model: request in, ranked scores out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from recstill.api.errors import BundleError
from recstill.api.task import FeatureSpec
from recstill.data.bundle import ATTRIBUTION, Manifest, open_bundle
from recstill.data.columns import Column, Lists, column_of
from recstill.data.transform import Encoded, Transform
from recstill.serving.catalogue import CatalogueIndex
from recstill.serving.lookup import FeatureLookup
from recstill.serving.request import ScoreRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.data.columns import Columns, Typed, Values
    from recstill.data.packed import PackedStore


@dataclass(frozen=True)
class Scored:
    """Scores {label: (N,)} in the order of the request, and what they rest on.

    unknown: entities without any features. unseen: entities whose id training never saw often enough to learn it; they are
    scored by a hashed id. missing_views: by view, how many rows it lacked. terms: (N, P), what the primary label's logit is the
    sum of, for models that say so; for others, where it is asked for, what each feature adds to it. remarks: by place in the
    request, what the row brought that training never saw. context_remarks: the same of the context.
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
        self._categories = {f.name for f in self.graph.transform.features if f.kind == "categorical"}
        self._id_features = {feature.name for feature in self.graph.transform.features if feature.view == "key"}
        self.types = self.features.types
        self.brought = self._brought()
        self.index = CatalogueIndex(self, vectors) if self.task.endpoint.catalogue else None

    def warm_up(self) -> None:
        """Score once, so that the first request does not pay for what is made lazily."""
        if self.index is None:
            count = min(200, self.task.endpoint.max_items)
            nothing = {name: column_of(self.types[name], [None] * count) for name in self.brought}
            ids = column_of(self.types[self.task.endpoint.item_key], [None] * count)
            self.score(ScoreRequest(None, ids, {}, nothing, explain=bool(self.manifest.attributed)))
        else:
            self.rank(ScoreRequest(None, np.zeros(0, np.int64), {}, k=10))

    def score(self, request: ScoreRequest) -> Scored:
        """Score items for one query entity. Unknown entities are scored by their hashed ids and what features they have."""
        entity = self.features.entity(request.entity)
        query, missing = self.features.query(entity, request.context)
        items, rows, counts = self.features.items(entity, request.items, request.context, request.rows)
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
            self._remarks({name: request.rows[name] for name in self.manifest.sides.row}),
            self.context_remarks(request.context),
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

    def context_remarks(self, context: Mapping[str, Any]) -> list[str]:
        """Say which fields of the context lie outside of what training saw."""
        fields = {spec.name for spec in self.task.endpoint.context} & set(self.manifest.sides.query)
        given = {name: column for name, column in self.features.context(context).items() if name in fields}
        return self._remarks(given).get(0, []) if given else []

    def _remarks(self, columns: Columns) -> dict[int, list[str]]:
        """Say, by row, which values lie outside of what training saw. They are scored all the same: a number as the nearest
        one seen, a category as a rare one, or as missing where training had no rare ones."""
        found: dict[int, list[str]] = {}
        for name in columns:
            column = self.graph.transform.column(name, columns)
            if isinstance(column, Lists):
                wrong, text = self._unseen_items(name, column)
            elif name in self.graph.transform.numeric:
                wrong, text = self._out_of_range(name, column)
            elif name in self._categories:
                is_given = ~column.is_missing & (column.values != "" if column.type == "string" else True)
                wrong = np.flatnonzero(is_given & ~self.graph.transform.knows(name, column))
                text = f"{name} has a value that training never saw, or hardly ever"
            else:
                continue
            for place in wrong.tolist():
                found.setdefault(place, []).append(text)
        return found

    def _out_of_range(self, name: str, column: Column) -> tuple[NDArray[np.int64], str]:
        low, high = self.graph.transform.numeric[name].seen
        numbers = column.numbers().astype(np.float64) if column.type != "null" else np.full(len(column), np.nan)
        text = f"{name} is outside of {low:g} to {high:g}, the values seen in training"
        return np.flatnonzero((numbers < low) | (numbers > high)), text

    def _unseen_items(self, name: str, lists: Lists) -> tuple[NDArray[np.int64], str]:
        is_new = ~self.graph.transform.knows(name, lists.items)
        owner = np.repeat(np.arange(len(lists)), lists.lengths)[is_new]
        return np.unique(owner), f"{name} has values that training never saw, or hardly ever"

    def _unseen(self, key: str, ids: Typed | Values) -> NDArray[np.bool_]:
        """Say which ids have no row of their own; none, for a model that does not look at them."""
        if key not in self._id_features:
            return np.zeros(len(ids), bool)
        return ~self.graph.transform.knows(key, ids)
