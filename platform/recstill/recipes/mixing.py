"""Rows made of other rows: nobody labelled them, and a teacher can be asked about as many as one likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recstill.api.errors import ConfigError

if TYPE_CHECKING:
    from recstill.api.task import TaskSpec
    from recstill.recipes.config import MixedConfig

MIXED = "mixed"


def with_mixed(table: pa.Table, spec: TaskSpec, config: MixedConfig) -> pa.Table:
    """Return the table with `copies` x as many rows of split `mixed` as it has training rows, at its end.

    A mixed row is a training row in which each feature's value is, with probability `share`, that of another training row drawn
    at random. Its keys, groups and moment stay, its labels are unknown. After MUNGE (Bucila, Caruana & Niculescu-Mizil, 2006,
    Model compression), which takes the other row from the neighbourhood, at a cost of the square of the rows. Raise ConfigError
    where the task has rows of that split already.
    """
    if taken := set(pc.unique(table["split"]).to_pylist()) & {MIXED}:
        raise ConfigError("distil.mixed", [f"the task makes rows of split {taken.pop()!r} itself"])
    train = np.flatnonzero(table["split"].to_numpy() == "train")
    random = np.random.default_rng(config.seed)
    count = round(config.copies * len(train))
    base = np.concatenate([random.permutation(train) for _ in range(-(-count // max(len(train), 1)))])[:count]
    other = random.choice(train, count)
    labels = {label.name for label in spec.labels}
    features = {feature.name for feature in spec.features if feature.view != "key"}
    rows = table.take(pa.array(base))
    for place, field in enumerate(table.schema):
        if field.name in features:
            drawn = pa.array(random.random(count) < config.share)
            mixed = pc.if_else(drawn, table[field.name].take(pa.array(other)), rows[field.name])
            rows = rows.set_column(place, field, mixed)
        elif field.name in labels:
            rows = rows.set_column(place, field, pa.nulls(count, field.type))
        elif field.name == "split":
            rows = rows.set_column(place, field, pa.array([MIXED] * count, field.type))
    return pa.concat_tables([table, rows])
