"""LightGBM and popularity on the rows and features of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from recstill.api import BaselineData, LabelSpec

_OBJECTIVES = {"binary": "binary", "count": "poisson", "regression": "regression"}


def lightgbm_baseline(
    train: BaselineData,
    valid: BaselineData,
    test: BaselineData,
    labels: tuple[LabelSpec, ...],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, NDArray[np.float32]]:
    """Gradient-boosted trees: up to 300 of 31 leaves, stopped early on the validation split, one model per label."""
    import lightgbm

    names = sorted(train.features)
    matrices = [np.column_stack([data.features[name] for name in names]).astype(np.float32) for data in (train, valid, test)]
    # High-cardinality ids as categories overfit and take minutes; LightGBM's own advice is to treat them as numbers.
    categorical = [name for name in train.categorical if len(np.unique(train.features[name])) <= 500]
    predictions = {}
    for label in labels:
        if label.kind not in _OBJECTIVES:
            continue
        progress(label.name)
        target = train.labels[label.name]
        learn = lightgbm.Dataset(matrices[0], target, feature_name=names, categorical_feature=categorical, free_raw_data=False)
        check = lightgbm.Dataset(matrices[1], valid.labels[label.name], reference=learn)
        settings = {
            "objective": _OBJECTIVES[label.kind], "num_leaves": 31, "learning_rate": 0.1, "seed": seed, "verbose": -1,
            "num_threads": 2, "deterministic": True, "force_col_wise": True,
        }  # fmt: skip
        booster = lightgbm.train(settings, learn, 300, valid_sets=[check], callbacks=[lightgbm.early_stopping(30, verbose=False)])
        predictions[label.name] = np.asarray(booster.predict(matrices[2]), np.float32)
    return predictions


def popularity_baseline(
    train: BaselineData,
    valid: BaselineData,
    test: BaselineData,
    labels: tuple[LabelSpec, ...],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, NDArray[np.float32]]:
    """The label's training mean per decile of the product's recent buyers: what a shop without a model does."""
    edges = np.unique(np.nanquantile(train.features["p_buyers_4w"], np.linspace(0, 1, 51)[1:-1]))
    place_train, place_test = (np.searchsorted(edges, np.nan_to_num(d.features["p_buyers_4w"])) for d in (train, test))
    predictions = {}
    for label in labels:
        total = np.bincount(place_train, train.labels[label.name], len(edges) + 1)
        count = np.bincount(place_train, minlength=len(edges) + 1)
        predictions[label.name] = (total / np.maximum(count, 1))[place_test].astype(np.float32)
    return predictions
