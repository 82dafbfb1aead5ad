"""A gate: the student may not treat groups more unlike than its teacher does."""

from __future__ import annotations

from recstill.api import Candidate, GateResult


def fairness(candidate: Candidate, max_amplification: float = 1.25, small_gap: float = 0.02) -> GateResult:
    """The gap in approval rates between the groups of each attribute at most `max_amplification` times the teacher's, or below
    `small_gap`, which is within what a few thousand test rows can tell. A gap that is undefined is not known to be small."""
    unknown = {name: reason for name, reason in candidate.undefined.items() if _is_gap(name)}
    if unknown:
        return GateResult(False, "; ".join(f"{name} is undefined: {reason}" for name, reason in unknown.items()))
    gaps = {name: value for name, value in candidate.metrics.items() if _is_gap(name)}
    if not gaps:
        return GateResult(True, "the task names no groups to compare")
    said, passed = [], True
    for name, gap in gaps.items():
        group = name.split(".")[1]
        before = None if candidate.teacher is None else candidate.teacher.get(name)
        if before is None:
            passed &= gap <= small_gap
            said.append(f"{group}: approval gap {gap:.3f}, no teacher's to compare with")
            continue
        amplified = gap / max(before, 1e-9)
        passed &= gap <= small_gap or amplified <= max_amplification
        said.append(f"{group}: approval gap {gap:.3f}, the teacher's {before:.3f}, {amplified:.2f} x")
    return GateResult(bool(passed), "; ".join(said))


def _is_gap(name: str) -> bool:
    return name.startswith("fairness.") and name.endswith("approval_gap")
