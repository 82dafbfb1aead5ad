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
    assert "9.00 x" in size(replace(GOOD, teacher_size_bytes=9_000_000)).reason


def test_the_size_gate_never_rounds_up_to_its_bound() -> None:
    near = replace(GOOD, size_bytes=62_345, teacher_size_bytes=623_400)
    result = size(near)
    assert not result.passed
    assert "62,345 bytes, 9.99 x smaller than the teacher's 623,400 (must be 10 x: 62,340 bytes or less)" in result.reason
    assert size(replace(near, size_bytes=62_340)).passed


def test_bounds_are_options() -> None:
    assert size(replace(GOOD, teacher_size_bytes=4_000_000), min_ratio=4).passed
    assert not parity(GOOD, limit=1e-8).passed
    assert calibration(with_metrics(buy_calibration=1.3), high=1.5).passed
    assert not calibration(with_metrics(buy_calibration=0.9), low=0.95).passed
    assert quality(with_metrics(buy_auc=0.65), tolerance=0.1).passed


def test_a_student_below_its_runs_baseline_is_refused_with_or_without_an_incumbent() -> None:
    baselines = {"lightgbm": {"buy.auc": 0.75}, "popularity": {"buy.auc": 0.6}, "broken": {}}
    for incumbent in (None, {"buy.auc": 0.7}):
        result = quality(replace(GOOD, incumbent=incumbent, baselines=baselines))
        assert not result.passed
        assert "baseline lightgbm 0.7500" in result.reason
        assert quality(replace(GOOD, incumbent=incumbent, baselines=baselines), baseline_tolerance=0.06).passed
    assert quality(replace(with_metrics(buy_auc=0.7495), incumbent=None, baselines=baselines)).passed


def test_an_undefined_metric_fails_with_its_reason() -> None:
    nothing = replace(GOOD, metrics={}, undefined={"buy.auc": "one class", "parity.max_difference": "no number"})
    assert quality(nothing).reason == "buy.auc is undefined: one class"
    assert parity(nothing).reason == "parity.max_difference is undefined: no number"
    assert calibration(nothing).reason == "buy.calibration is undefined: it was not measured"
    assert not any(gate(nothing).passed for gate in (quality, calibration, parity))
    assert quality(replace(GOOD, incumbent={})).reason.endswith("no incumbent and no baseline (must beat 0.5)")
