"""A gate: the student may not treat groups more unlike than its teacher does."""

from __future__ import annotations

from recstill.api import Candidate, GateResult

MAX_AMPLIFICATION = 1.25
# Below this the gap is within what a few thousand test rows can tell.
SMALL_GAP = 0.02


def fairness(candidate: Candidate) -> GateResult:
    """The gap in approval rates between the groups of each attribute at most 1.25 times the teacher's, or below 0.02."""
    gaps = {
        name: value
        for name, value in candidate.metrics.items()
        if name.startswith("fairness.") and name.endswith("approval_gap")
    }
    if not gaps:
        return GateResult(True, "the task names no groups to compare")
    said, passed = [], True
    for name, gap in gaps.items():
        group = name.split(".")[1]
        before = None if candidate.teacher is None else candidate.teacher.get(name)
        if before is None:
            passed &= gap <= SMALL_GAP
            said.append(f"{group}: approval gap {gap:.3f}, no teacher's to compare with")
            continue
        amplified = gap / max(before, 1e-9)
        passed &= gap <= SMALL_GAP or amplified <= MAX_AMPLIFICATION
        said.append(f"{group}: approval gap {gap:.3f}, the teacher's {before:.3f}, {amplified:.2f} x")
    return GateResult(passed, "; ".join(said))
