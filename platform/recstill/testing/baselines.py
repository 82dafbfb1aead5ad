"""What a baseline must hold: finite answers for the labels that it knows, of one per test row, the same for one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.baseline import BaselineData
from recstill.api.errors import RecstillError
from recstill.api.task import LabelSpec
from recstill.testing.results import Check, check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_LABELS = (
    LabelSpec(name="click", primary=True),
    LabelSpec(name="amount", kind="count"),
    # What only a teacher speaks about: no row knows it, and a baseline leaves it out.
    LabelSpec(name="unknown", kind="regression"),
)
_NUM_TEST = 40


def check_baseline(baseline: Any, *, name: str) -> list[Check]:
    """Check a baseline on tables with numbers and categories, without numbers, and without categories.

    One that reads features of its own task may refuse a table with a RecstillError that names them.
    """
    subject = f"baseline {name}"
    tables = {"numbers and categories": (True, True), "numbers only": (True, False), "categories only": (False, True)}
    rules = [
        check(subject, f"answers rows of {words}", lambda parts=parts: _answers(baseline, *parts))  # type: ignore[misc]
        for words, parts in tables.items()
    ]
    return [*rules, check(subject, "same seed, same answers", lambda: _same(baseline))]


def _answers(baseline: Any, numbers: bool, categories: bool) -> str | None:
    try:
        answers = _predict(baseline, numbers, categories)
    except RecstillError:  # it reads features of its own task, and says so in words
        return None
    if strange := set(answers) - {label.name for label in _LABELS}:
        return f"it answers labels that nobody asked for: {', '.join(sorted(strange))}"
    for label, values in answers.items():
        if np.shape(values) != (_NUM_TEST,):
            return f"{label} has the shape {np.shape(values)}, not ({_NUM_TEST},)"
        if not np.isfinite(values).all():
            return f"{label} has answers that are not finite"
    return None


def _same(baseline: Any) -> str | None:
    try:
        first, second = _predict(baseline), _predict(baseline)
    except RecstillError:
        return None
    differing = [label for label in first if not np.array_equal(first[label], second[label])]
    return f"two calls differ in {', '.join(differing)}" if differing else None


def _predict(baseline: Any, numbers: bool = True, categories: bool = True) -> Mapping[str, NDArray[np.float32]]:
    train, valid, test = (_table(num_rows, seed, numbers, categories) for seed, num_rows in enumerate((200, 60, _NUM_TEST)))
    answers: Mapping[str, NDArray[np.float32]] = baseline(train, valid, test, _LABELS, 0, lambda _: None)
    return answers


def _table(num_rows: int, seed: int, numbers: bool, categories: bool) -> BaselineData:
    """Return rows whose click follows from a number and a category; some values are missing."""
    random = np.random.default_rng(seed)
    amount = random.normal(size=num_rows).astype(np.float32)
    shop = random.integers(0, 5, num_rows)
    click = (amount + shop - 2 + random.normal(size=num_rows) > 0).astype(np.float32)
    features: dict[str, NDArray[Any]] = {}
    if numbers:
        features["amount"] = np.where(random.random(num_rows) < 0.1, np.float32(np.nan), amount)
    if categories:
        features["shop"] = np.where(random.random(num_rows) < 0.1, -1, shop).astype(np.int64)
    amounts = random.poisson(2.0, num_rows).astype(np.float32)
    amounts[::7] = np.nan  # not known yet, as labels that come late
    labels = {"click": click, "amount": amounts, "unknown": np.full(num_rows, np.nan, np.float32)}
    return BaselineData(features, ("shop",) if categories else (), labels)
