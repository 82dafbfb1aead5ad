"""Compare what is served with the offline truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from recstill.data.packed import current_version, open_store
from recstill.data.snapshot import to_numpy
from recstill.features.online import newest, online_rows
from recstill.features.repo import all_views

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore

    from recstill.data.encoders import Values


@dataclass(frozen=True)
class ViewCheck:
    """How many sampled values of a view differ between the offline store, Feast online and the packed arrays."""

    view: str
    num_rows: int
    num_values: int
    online_differences: int
    packed_differences: int


def verify_online(store: FeatureStore, root: Path, num_rows: int = 1000, seed: int = 0) -> list[ViewCheck]:
    """Check up to `num_rows` random entities of every online view."""
    packed = open_store(current_version(root))
    until = datetime.fromisoformat(packed.meta["as_of"])
    random = np.random.default_rng(seed)
    checks = []
    for view in (view for view in all_views(store) if view.name in packed.views):
        table = newest(store, view, until)
        table = table.take(np.sort(random.permutation(len(table))[:num_rows]))
        entities = {key: to_numpy(table[key]) for key in view.join_keys}
        served = online_rows(store, view, entities)
        place = packed.views[view.name].find([entities[key] for key in view.join_keys])
        online = in_packed = 0
        for feature in view.features:
            truth = to_numpy(table[feature])
            online += _differences(truth, np.array(served[feature], dtype=object))
            in_packed += _differences(truth, packed.views[view.name].read(feature, place))
        checks.append(ViewCheck(view.name, len(table), len(table) * len(view.features), online, in_packed))
    return checks


def _differences(truth: Values, found: Values) -> int:
    """Count unequal values; None, NaN and empty text are all 'missing'."""
    pairs = zip(truth.tolist(), found.tolist(), strict=True)
    return sum(_plain(left) != _plain(right) for left, right in pairs)


def _plain(value: object) -> object:
    if value is None or value != value or value == "":
        return None
    return float(np.float32(value)) if isinstance(value, float) else value
