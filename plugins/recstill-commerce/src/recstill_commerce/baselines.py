"""LightGBM and popularity on the rows and features of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recstill.api import FeatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """Gradient-boosted trees: up to 200 of 31 leaves, stopped early on the validation split, one model per label."""
    import lightgbm

    names = sorted(train.features)
    matrices = [np.column_stack([_column(data, name) for name in names]) for data in (train, valid, test)]
    # High-cardinality ids as categories overfit and take minutes; LightGBM's own advice is to treat them as numbers.
    categorical = [name for name in train.categorical if len(np.unique(train.features[name])) <= 500]
    settings = {
        "num_leaves": 31, "learning_rate": 0.15, "seed": seed, "verbose": -1, "num_threads": 2, "deterministic": True,
        "force_col_wise": True, "feature_pre_filter": False,
    }  # fmt: skip
    learn = lightgbm.Dataset(
        matrices[0], feature_name=names, categorical_feature=categorical, params=settings, free_raw_data=False
    )
    check = lightgbm.Dataset(matrices[1], reference=learn, params=settings, free_raw_data=False)
    predictions = {}
    for label in labels:
        if label.kind not in _OBJECTIVES:
            continue
        learn.set_label(train.labels[label.name])
        check.set_label(valid.labels[label.name])
        stop = lightgbm.early_stopping(20, verbose=False)
        booster = lightgbm.train(
            {**settings, "objective": _OBJECTIVES[label.kind]}, learn, 200, valid_sets=[check], callbacks=[stop]
        )
        progress(f"{label.name}, {booster.best_iteration} trees")
        predictions[label.name] = np.asarray(booster.predict(matrices[2]), np.float32)
    return predictions


def _column(data: BaselineData, name: str) -> NDArray[np.float32]:
    values = data.features[name].astype(np.float32)
    return np.where(values < 0, np.float32(np.nan), values) if name in data.categorical else values


def popularity_baseline(
    train: BaselineData,
    valid: BaselineData,
    test: BaselineData,
    labels: tuple[LabelSpec, ...],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, NDArray[np.float32]]:
    """The label's training mean per decile of the product's recent buyers: what a shop without a model does."""
    if "p_buyers_4w" not in train.features:
        raise FeatureError(
            "Baseline 'popularity' reads the feature p_buyers_4w, the recent buyers of a product, which the teacher's service "
            "does not have. Leave it out of `baselines`, or use a service of the ads task."
        )
    edges = np.unique(np.nanquantile(train.features["p_buyers_4w"], np.linspace(0, 1, 51)[1:-1]))
    place_train, place_test = (np.searchsorted(edges, np.nan_to_num(d.features["p_buyers_4w"])) for d in (train, test))
    predictions = {}
    for label in labels:
        total = np.bincount(place_train, train.labels[label.name], len(edges) + 1)
        count = np.bincount(place_train, minlength=len(edges) + 1)
        predictions[label.name] = (total / np.maximum(count, 1))[place_test].astype(np.float32)
    return predictions
