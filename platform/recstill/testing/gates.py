"""What a gate must hold: it answers for every candidate, good or bad, and never raises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recstill.api.gates import Candidate, GateResult
from recstill.testing.results import Check, check

_METRICS = {"label.auc": 0.8, "label.calibration": 1.0, "parity.max_difference": 1e-7}
_GOOD = Candidate(
    name="model",
    version=2,
    metrics=_METRICS,
    size_bytes=1_000,
    teacher_size_bytes=100_000,
    primary_metric="label.auc",
    calibrated_labels=("label",),
    incumbent=_METRICS,
    teacher=_METRICS,
)
# Every task's candidates come to every gate: with metrics that were undefined, of other labels, without a teacher.
_CANDIDATES = {
    "a good candidate": _GOOD,
    "the first of its name": replace(_GOOD, incumbent=None),
    "one without a teacher": replace(_GOOD, teacher=None, teacher_size_bytes=None),
    "one without metrics": replace(_GOOD, metrics={}),
    "one of another task": replace(_GOOD, metrics={"other.auc": 0.7}, primary_metric="other.auc", calibrated_labels=()),
    "one whose metrics are NaN": replace(_GOOD, metrics=dict.fromkeys(_METRICS, float("nan"))),
    "one whose incumbent has other metrics": replace(_GOOD, incumbent={"other.auc": 0.7}),
}


def check_gate(gate: Any, *, name: str) -> list[Check]:
    """Check a gate on candidates of every kind."""
    subject = f"gate {name}"

    def judges(candidate: Candidate) -> str | None:
        result = gate(candidate)
        if not isinstance(result, GateResult):
            return f"it returned {type(result).__name__}, not a GateResult"
        if not isinstance(result.passed, bool) or not result.reason:
            return "its result needs `passed`, True or False, and a reason"
        return None

    return [
        check(subject, f"judges {words} without raising", lambda candidate=candidate: judges(candidate))  # type: ignore[misc]
        for words, candidate in _CANDIDATES.items()
    ]
