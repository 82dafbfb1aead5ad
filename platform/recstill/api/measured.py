"""A metric: a number, or why there is none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Measured = float | str  # a finite number, or the reason why the metric is undefined
NOT_FINITE = "it is not a finite number"


class Undefined(float):
    """NaN that says why it is one: what a metric returns where it is undefined."""

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        value = super().__new__(cls, "nan")
        value.reason = reason
        return value


def measure(value: float) -> Measured:
    """Return a plain number, or the reason of one that is not finite: what is stored, and goes through JSON unchanged."""
    if isinstance(value, Undefined):
        return value.reason
    return float(value) if math.isfinite(value) else NOT_FINITE


def measured(values: Mapping[str, float]) -> dict[str, Measured]:
    """Return metrics as they are stored."""
    return {name: measure(value) for name, value in values.items()}


def numbers_of(values: Mapping[str, Measured]) -> dict[str, float]:
    """Return the metrics that have a value."""
    return {name: value for name, value in values.items() if not isinstance(value, str)}


def reasons_of(values: Mapping[str, Measured]) -> dict[str, str]:
    """Return why the others have none."""
    return {name: value for name, value in values.items() if isinstance(value, str)}


def text_of(value: Measured, form: str = ".4f") -> str:
    """Return a metric as people read it."""
    return f"undefined: {value}" if isinstance(value, str) else format(value, form)
