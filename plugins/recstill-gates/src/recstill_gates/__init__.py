"""The checks that a promotion must pass. Their bounds are options of a task or recipe: `gates: {size: {min_ratio: 4}}`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from recstill.api import Candidate, GateResult, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Gate


@hookimpl
def register_gates() -> Mapping[str, Gate]:
    return {"quality": quality, "calibration": calibration, "parity": parity, "size": size}


def quality(candidate: Candidate, tolerance: float = 0.001, baseline_tolerance: float = 0.001) -> GateResult:
    """The primary metric (AUC, or recall of a retrieval task) at most `tolerance` below the incumbent's and at most
    `baseline_tolerance` below the best baseline that its run trained: less than the spread between seeds of one recipe.

    Without either it must beat chance.
    """
    name = candidate.primary_metric
    value = candidate.metrics.get(name)
    if value is None:
        return GateResult(False, _why(candidate, name))
    floors = _floors(candidate, tolerance, baseline_tolerance)
    passed = all(value >= floor for floor in floors.values())
    said = ", ".join(f"{what} (must be at least {floor:.4f})" for what, floor in floors.items())
    if not floors:
        chance = 0.5 if name.endswith(".auc") else 0.0
        passed, said = value > chance, f"no incumbent and no baseline (must beat {chance:g})"
    return GateResult(passed, f"{name} {value:.4f}, {said}")


def _floors(candidate: Candidate, tolerance: float, baseline_tolerance: float) -> dict[str, float]:
    """What the primary metric must reach, by what it is compared with. An incumbent without the metric sets no floor."""
    name = candidate.primary_metric
    floors = {}
    if candidate.incumbent is not None and (before := candidate.incumbent.get(name)) is not None:
        floors[f"incumbent {before:.4f}"] = before - tolerance
    reached = {baseline: values[name] for baseline, values in candidate.baselines.items() if name in values}
    if reached:
        best = max(reached, key=lambda baseline: reached[baseline])
        floors[f"baseline {best} {reached[best]:.4f}"] = reached[best] - baseline_tolerance
    return floors


def calibration(candidate: Candidate, low: float = 0.9, high: float = 1.1) -> GateResult:
    """sum(p) / sum(y) of every label that is served as a probability between `low` and `high`."""
    names = [f"{label}.calibration" for label in candidate.calibrated_labels]
    unknown = [_why(candidate, name) for name in names if name not in candidate.metrics]
    if unknown:
        return GateResult(False, "; ".join(unknown))
    if not names:
        return GateResult(True, "no label is served as a probability")
    values = {name: candidate.metrics[name] for name in names}
    text = ", ".join(f"{name.removesuffix('.calibration')} {value:.3f}" for name, value in values.items())
    return GateResult(all(low <= value <= high for value in values.values()), f"{text} (must be in {low:g}-{high:g})")


def parity(candidate: Candidate, limit: float = 1e-5) -> GateResult:
    """The exported graph answers as the trained model does, up to `limit`."""
    value = candidate.metrics.get("parity.max_difference")
    if value is None:
        return GateResult(False, _why(candidate, "parity.max_difference"))
    return GateResult(value < limit, f"largest difference {value:.1e} (must be below {limit:.0e})")


def size(candidate: Candidate, min_ratio: float = 10.0) -> GateResult:
    """What a server loads is `min_ratio` times smaller than the teacher."""
    own, teacher = candidate.size_bytes, candidate.teacher_size_bytes
    if teacher is None:
        return GateResult(True, f"{own:,} bytes, no teacher to compare with")
    ratio = math.floor(100 * teacher / own) / 100  # never rounded up to the bound
    said = f"{own:,} bytes, {ratio:.2f} x smaller than the teacher's {teacher:,} (must be {min_ratio:g} x"
    if own * min_ratio <= teacher:
        return GateResult(True, f"{said})")
    return GateResult(False, f"{said}: {math.floor(teacher / min_ratio):,} bytes or less)")


def _why(candidate: Candidate, name: str) -> str:
    return f"{name} is undefined: {candidate.undefined.get(name, 'it was not measured')}"
