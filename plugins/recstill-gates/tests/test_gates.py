"""Each gate at its limit."""

from __future__ import annotations

from dataclasses import replace

from recstill.api import Candidate
from recstill_gates import calibration, parity, quality, size

GOOD = Candidate(
    "ads",
    2,
    {"buy.auc": 0.7, "buy.calibration": 1.0, "parity.max_difference": 1e-7},
    1_000_000,
    20_000_000,
    "buy.auc",
    ("buy",),
    {"buy.auc": 0.7},
)


def with_metrics(**metrics: float) -> Candidate:
    return replace(GOOD, metrics={**GOOD.metrics, **{name.replace("_", "."): value for name, value in metrics.items()}})


def test_quality_compares_with_the_incumbent_within_the_tolerance() -> None:
    assert quality(GOOD).passed
    assert quality(with_metrics(buy_auc=0.6995)).passed
    assert not quality(with_metrics(buy_auc=0.698)).passed
    assert not quality(replace(with_metrics(buy_auc=0.5), incumbent=None)).passed


def test_a_retrieval_model_is_judged_by_its_own_metric() -> None:
    first = replace(GOOD, metrics={"cited.recall@50": 0.24}, primary_metric="cited.recall@50", incumbent=None)
    assert quality(first).passed
    assert not quality(replace(first, metrics={"cited.recall@50": 0.0})).passed
    assert not quality(replace(first, incumbent={"cited.recall@50": 0.3})).passed


def test_calibration_must_be_between_0_9_and_1_1_for_every_label() -> None:
    assert calibration(GOOD).passed
    assert not calibration(with_metrics(buy_calibration=1.11)).passed
    assert not calibration(replace(GOOD, calibrated_labels=("buy", "unknown"))).passed


def test_parity_and_size() -> None:
    assert parity(GOOD).passed
    assert not parity(replace(GOOD, metrics={})).passed
    assert size(GOOD).passed
    assert not size(replace(GOOD, teacher_size_bytes=9_000_000)).passed
    assert "9.0 x" in size(replace(GOOD, teacher_size_bytes=9_000_000)).reason
