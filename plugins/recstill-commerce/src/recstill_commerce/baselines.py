"""LightGBM and popularity on the rows and features of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api import ConfigError, FeatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from recstill.api import BaselineData, LabelSpec

_OBJECTIVES = {"binary": "binary", "graded": "cross_entropy", "count": "poisson", "regression": "regression"}


def lightgbm_baseline(
    train: BaselineData,
    valid: BaselineData,
    test: BaselineData,
    labels: tuple[LabelSpec, ...],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, NDArray[np.float32]]:
    """Gradient-boosted trees: up to 200 of 31 leaves, one model per label, on the rows that know it, stopped early on the
    validation rows that do. A graded label is fitted as the expected grade. Raise ConfigError for labels that cannot be fitted.
    """
    import lightgbm

    names = sorted(train.features)
    matrices = [np.column_stack([_column(data, name) for name in names]) for data in (train, valid, test)]
    # High-cardinality ids as categories overfit and take minutes; LightGBM's own advice is to treat them as numbers.
    few = [name in train.categorical and len(np.unique(train.features[name])) <= 500 for name in names]
    settings = {
        "num_leaves": 31, "learning_rate": 0.15, "seed": seed, "verbose": -1, "num_threads": 2, "deterministic": True,
        "force_col_wise": True, "feature_pre_filter": False,
    }  # fmt: skip
    binned = _Binned(matrices[0], matrices[1], np.flatnonzero(few).tolist(), settings)
    predictions = {}
    for label in labels:
        kind = "graded" if label.graded else label.kind
        if kind not in _OBJECTIVES:
            continue
        if np.isnan(train.labels[label.name]).all():  # only a teacher speaks about it
            progress(f"{label.name}: no training row knows it, left out")
            continue
        try:
            learn, checks = binned.of(train.labels[label.name], valid.labels[label.name])
            stops = [lightgbm.early_stopping(20, verbose=False)] if checks else []
            booster = lightgbm.train(
                {**settings, "objective": _OBJECTIVES[kind]}, learn, 200, valid_sets=checks, callbacks=stops
            )
        except lightgbm.basic.LightGBMError as error:
            raise ConfigError("Baseline 'lightgbm'", [f"label {label.name!r}: {str(error).strip()}"]) from error
        progress(f"{label.name}, {booster.best_iteration if checks else booster.num_trees()} trees")
        predictions[label.name] = np.asarray(booster.predict(matrices[2]), np.float32)
    return predictions


class _Binned:
    """Rows as LightGBM bins them, once for all labels that the same rows know."""

    def __init__(
        self, train: NDArray[np.float32], valid: NDArray[np.float32], categorical: list[int], settings: Mapping[str, Any]
    ) -> None:
        self.rows, self.categorical, self.settings = (train, valid), categorical, settings
        self.known: list[NDArray[np.bool_]] = []

    def of(self, train: NDArray[np.float32], valid: NDArray[np.float32]) -> tuple[Any, list[Any]]:
        """Return the rows that know a label, and what to stop early by: none where no validation row knows it."""
        import lightgbm

        known = [~np.isnan(train), ~np.isnan(valid)]
        if not all(map(np.array_equal, self.known or [None, None], known)):
            options = {"params": self.settings, "free_raw_data": False}
            parts = [matrix[here] for matrix, here in zip(self.rows, known, strict=True)]
            self.known = known
            self.learn = lightgbm.Dataset(parts[0], categorical_feature=self.categorical, **options)
            self.check = [lightgbm.Dataset(parts[1], reference=self.learn, **options)] if len(parts[1]) else []
        self.learn.set_label(train[known[0]])
        for check in self.check:
            check.set_label(valid[known[1]])
        return self.learn, self.check


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
        values = train.labels[label.name]
        known = ~np.isnan(values)
        if not known.any():
            continue
        total = np.bincount(place_train[known], values[known], len(edges) + 1)
        count = np.bincount(place_train[known], minlength=len(edges) + 1)
        predictions[label.name] = (total / np.maximum(count, 1))[place_test].astype(np.float32)
    return predictions
