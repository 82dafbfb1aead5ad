"""The checks that a promotion must pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api import Candidate, Gate, GateResult, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

# A later version may be this much worse in its primary metric: less than the spread between seeds of one recipe.
TOLERANCE = 0.001
CALIBRATION_RANGE = (0.9, 1.1)
PARITY_LIMIT = 1e-5
SIZE_RATIO = 10


@hookimpl
def register_gates() -> Mapping[str, Gate]:
    return {"quality": quality, "calibration": calibration, "parity": parity, "size": size}


def quality(candidate: Candidate) -> GateResult:
    """The primary metric (AUC, or recall of a retrieval task) not below the incumbent's."""
    name = candidate.primary_metric
    value = candidate.metrics.get(name, float("nan"))
    if candidate.incumbent is None:
        chance = 0.5 if name.endswith(".auc") else 0.0
        return GateResult(value > chance, f"{name} {value:.4f}, no incumbent (must beat {chance:g})")
    floor = candidate.incumbent[name] - TOLERANCE
    return GateResult(value >= floor, f"{name} {value:.4f}, incumbent {candidate.incumbent[name]:.4f}")


def calibration(candidate: Candidate) -> GateResult:
    """sum(p) / sum(y) of every label that is served as a probability or amount."""
    low, high = CALIBRATION_RANGE
    values = {label: candidate.metrics.get(f"{label}.calibration", float("nan")) for label in candidate.calibrated_labels}
    text = ", ".join(f"{label} {value:.3f}" for label, value in values.items())
    return GateResult(all(low <= value <= high for value in values.values()), f"{text} (must be in {low}-{high})")


def parity(candidate: Candidate) -> GateResult:
    """The exported graph answers as the trained model does."""
    value = candidate.metrics.get("parity.max_difference", float("inf"))
    return GateResult(value < PARITY_LIMIT, f"largest difference {value:.1e} (must be below {PARITY_LIMIT:.0e})")


def size(candidate: Candidate) -> GateResult:
    """The bundle is small beside its teacher's."""
    if candidate.teacher_size_bytes is None:
        return GateResult(True, f"{candidate.size_bytes / 1e6:.2f} MB, no teacher to compare with")
    ratio = candidate.teacher_size_bytes / candidate.size_bytes
    return GateResult(ratio >= SIZE_RATIO, f"{ratio:.1f} x smaller than the teacher (must be {SIZE_RATIO} x)")
