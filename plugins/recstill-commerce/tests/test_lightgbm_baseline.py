"""The LightGBM baseline answers every kind of label on its own scale, from the rows that know it."""

from __future__ import annotations

import numpy as np
import pytest

from recstill.api import BaselineData, ConfigError, LabelSpec
from recstill_commerce.baselines import lightgbm_baseline

RANDOM = np.random.default_rng(0)


def data(count: int, **labels: np.ndarray) -> BaselineData:
    features = {"a:b": RANDOM.normal(size=count), "shop, city": RANDOM.integers(-1, 5, count)}
    return BaselineData(features, ("shop, city",), {name: values.astype(np.float32) for name, values in labels.items()})


def test_grades_are_expected_grades_and_unknown_rows_are_left_out() -> None:
    parts = []
    for count in (600, 200, 200):
        part = data(count)
        grade = RANDOM.binomial(3, 0.4 / (1 + np.exp(-part.features["a:b"]))) / 3
        late = np.where(np.arange(count) % 2 == 0, np.nan, part.features["a:b"] > 0)
        if count == 200:
            late[:] = np.nan
        parts.append(BaselineData(part.features, part.categorical, {"grade": grade.astype(np.float32), "late": late}))
    labels = LabelSpec(name="grade", primary=True, graded=True), LabelSpec(name="late")
    found = lightgbm_baseline(*parts, labels, 0, lambda _: None)
    assert found["grade"].mean() == pytest.approx(parts[0].labels["grade"].mean(), rel=0.15)
    assert ((found["late"] > 0.5) == (parts[2].features["a:b"] > 0)).mean() > 0.95


def test_labels_that_cannot_be_fitted_are_told() -> None:
    parts = [data(50, n=np.full(50, -1.0)) for _ in range(3)]
    with pytest.raises(ConfigError, match=r"label .n.: .*negative"):
        lightgbm_baseline(*parts, (LabelSpec(name="n", kind="count", primary=True),), 0, lambda _: None)
