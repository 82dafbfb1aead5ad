"""Compare what is served with the offline truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.data.arrow import typed_columns
from recstill.data.packed import current_version, open_store
from recstill.features.leftovers import stored_keys
from recstill.features.online import newest, online_rows
from recstill.features.repo import all_views

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

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
        columns = typed_columns(table)
        entities = {key: columns[key] for key in view.join_keys}
        served = online_rows(store, view, entities)
        place = packed.views[view.name].find([entities[key] for key in view.join_keys])
        online, in_packed = left, max(len(packed.views[view.name].keys) - num_entities, 0)
        for feature in view.features:
            truth = columns[feature].tolist()
            online += _differences(truth, served[feature])
            if feature not in packed.views[view.name].unserved:
                in_packed += _differences(truth, packed.views[view.name].read(feature, place).tolist())
        checks.append(ViewCheck(view.name, len(table), len(table) * len(view.features), online, in_packed))
    return checks


def _left_over(store: FeatureStore, view: View, num_entities: int) -> int:
    """Count the entities that the online store holds beyond those that have a row; they must have been deleted."""
    definition = store.get_feature_view(view.name)
    stored = stored_keys(store, definition)
    if stored is None or definition.stream_source is not None:
        return 0
    return max(len(stored) - num_entities, 0)


def _differences(truth: list[Any], found: list[Any]) -> int:
    """Count unequal values; None, NaN, empty text and an empty list are all 'missing'."""
    return sum(_plain(left) != _plain(right) for left, right in zip(truth, found, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value] or None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None) if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if value is None or value != value or value == "":
        return None
    return value
