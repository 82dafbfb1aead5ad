"""Compare what is served with the offline truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from recstill.data.packed import current_version, open_store
from recstill.data.snapshot import to_numpy
from recstill.features.leftovers import stored_keys
from recstill.features.online import newest, online_rows
from recstill.features.repo import all_views

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

    from recstill.data.encoders import Values
    from recstill.features.featureset import View


@dataclass(frozen=True)
class ViewCheck:
    """How many sampled values of a view differ between the offline store, Feast online and the packed arrays.

    An entity that is served and has no row in the source counts as a difference, too.
    """

    view: str
    num_rows: int
    num_values: int
    online_differences: int
    packed_differences: int


def verify_online(store: FeatureStore, root: Path, num_rows: int = 1000, seed: int = 0) -> list[ViewCheck]:
    """Check up to `num_rows` random entities of every online view."""
    packed = open_store(current_version(root))
    random = np.random.default_rng(seed)
    checks = []
    for view in (view for view in all_views(store) if view.name in packed.views):
        until = datetime.fromisoformat(packed.meta["views"][view.name].get("as_of", packed.meta["as_of"]))
        table = newest(store, view, until)
        num_entities = len(table)
        left = _left_over(store, view, num_entities)
        table = table.take(np.sort(random.permutation(len(table))[:num_rows]))
        entities = {key: to_numpy(table[key]) for key in view.join_keys}
        served = online_rows(store, view, entities)
        place = packed.views[view.name].find([entities[key] for key in view.join_keys])
        online, in_packed = left, max(len(packed.views[view.name].keys) - num_entities, 0)
        for feature in view.features:
            truth = to_numpy(table[feature])
            online += _differences(truth, np.array(served[feature], dtype=object))
            in_packed += _differences(truth, packed.views[view.name].read(feature, place))
        checks.append(ViewCheck(view.name, len(table), len(table) * len(view.features), online, in_packed))
    return checks


def _left_over(store: FeatureStore, view: View, num_entities: int) -> int:
    """Count the entities that the online store holds beyond those that have a row; they must have been deleted."""
    definition = store.get_feature_view(view.name)
    stored = stored_keys(store, definition)
    if stored is None or definition.stream_source is not None:
        return 0
    return max(len(stored) - num_entities, 0)


def _differences(truth: Values, found: Values) -> int:
    """Count unequal values; None, NaN and empty text are all 'missing'."""
    pairs = zip(truth.tolist(), found.tolist(), strict=True)
    return sum(_plain(left) != _plain(right) for left, right in pairs)


def _plain(value: object) -> object:
    if value is None or value != value or value == "":
        return None
    return float(np.float32(value)) if isinstance(value, float) else value
