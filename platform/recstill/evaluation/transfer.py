"""Did distilling help?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t

from recstill.api.measured import Measured, Undefined, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_NO_GAP = "the teacher is not better than the student alone by more than twice the spread of its seeds"
_SEED_ABOVE = "a seed of the student alone is not below the teacher, so that it leaves no gap to close"


@dataclass(frozen=True)
class Transfer:
    """Transfer efficiency (S_kd - S_none) / (T - S_none) with its spread over seeds, and the verdict in words. Efficiency and
    gain are `Undefined` where they mean nothing."""

    efficiency: float
    spread: float
    gain: float
    interval: tuple[float, float] | None
    verdict: str

    def as_metrics(self, num_seeds: int) -> dict[str, tuple[Measured, float, int]]:
        """Return what of it is a number, or why it is none: name -> (value, spread, seeds)."""
        found: dict[str, tuple[Measured, float, int]] = {"gain": (measure(self.gain), 0.0, num_seeds)}
        found["efficiency"] = (measure(self.efficiency), self.spread, num_seeds)
        if self.interval is not None:
            found |= {"interval_low": (self.interval[0], 0.0, num_seeds), "interval_high": (self.interval[1], 0.0, num_seeds)}
        return found


def transfer_efficiency(
    teacher: Measured, alone: Sequence[Measured], distilled: Sequence[Measured], seeds: Sequence[int] = ()
) -> Transfer:
    """Compare students with the same seeds, higher is better. A value that is a text is the reason why it is undefined.

    The verdict is `gain` or `no gain` where the 95 % interval of the paired difference (Student's t) excludes zero,
    `inconclusive` where it does not, or without two different seeds: one that ran twice, or two that gave the same numbers to
    the last bit, count once. The efficiency is undefined where the teacher is not better than the student alone by more than
    twice the spread of its seeds, since the ratio then means nothing.
    """
    reasons = [measure(value) if isinstance(value, float) else value for value in (*alone, *distilled)]
    if reason := next((value for value in reasons if isinstance(value, str)), ""):
        nothing = Undefined(f"of a student {reason}")
        return Transfer(nothing, 0.0, nothing, None, f"undefined: {reason}")
    kept = _different(alone, distilled, seeds)
    without, taught = np.array(alone, np.float64)[kept], np.array(distilled, np.float64)[kept]
    differences = taught - without
    gain = float(differences.mean())
    efficiency, spread = _efficiency(teacher, without, differences)
    if len(kept) < 2:
        why = "one seed" if len(alone) == 1 else "the seeds are the same, or gave the same results"
        return Transfer(efficiency, 0.0, gain, None, f"inconclusive ({why})")
    half = float(t.ppf(0.975, len(kept) - 1) * differences.std(ddof=1) / np.sqrt(len(kept)))
    interval = (gain - half, gain + half)
    return Transfer(efficiency, spread, gain, interval, _verdict(*interval))


def _verdict(low: float, high: float) -> str:
    if low > 0:
        return "gain"
    return "no gain" if high < 0 else "inconclusive"


def _different(alone: Sequence[Measured], distilled: Sequence[Measured], seeds: Sequence[int]) -> list[int]:
    """The places of the pairs that are measurements of their own."""
    seen: set[object] = set()
    kept = []
    for place, pair in enumerate(zip(alone, distilled, strict=True)):
        keys = {("values", pair), *([("seed", seeds[place])] if seeds else [])}
        if not keys & seen:
            kept.append(place)
        seen |= keys
    return kept


def _efficiency(teacher: Measured, alone: NDArray[np.float64], differences: NDArray[np.float64]) -> tuple[float, float]:
    """The mean share of the gap that was closed, and its spread over seeds."""
    top = measure(teacher) if isinstance(teacher, float) else teacher
    if isinstance(top, str):
        return Undefined(f"of the teacher {top}"), 0.0
    noise = 2 * float(np.std(alone, ddof=1)) if len(alone) > 1 else 0.0
    if top - float(np.mean(alone)) <= noise:
        return Undefined(_NO_GAP), 0.0
    if (alone >= top).any():  # its gap is nothing or less: a ratio to it would be huge, or count a gain as a loss
        return Undefined(_SEED_ABOVE), 0.0
    ratios = differences / (top - alone)
    return float(ratios.mean()), float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0
