"""Did distilling help?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Transfer:
    """Transfer efficiency (S_kd - S_none) / (T - S_none) with its spread over seeds, and the verdict in words."""

    efficiency: float
    spread: float
    gain: float
    interval: tuple[float, float] | None
    verdict: str

    def as_metrics(self, num_seeds: int) -> dict[str, tuple[float, float, int]]:
        """Return what of it is a number: name -> (value, spread, seeds)."""
        found = {"gain": (self.gain, 0.0, num_seeds)}
        if np.isfinite(self.efficiency):
            found["efficiency"] = (self.efficiency, self.spread, num_seeds)
        if self.interval is not None:
            found |= {"interval_low": (self.interval[0], 0.0, num_seeds), "interval_high": (self.interval[1], 0.0, num_seeds)}
        return found


def transfer_efficiency(teacher: float, alone: Sequence[float], distilled: Sequence[float]) -> Transfer:
    """Compare students with the same seeds, higher is better.

    The verdict is `gain` or `no gain` where the 95 % interval of the paired difference (Student's t) excludes zero,
    `inconclusive` where it does not or only one seed ran; the efficiency is NaN where the teacher is not better than the
    student alone by more than twice the spread of its seeds, since the ratio then means nothing.
    """
    differences = np.asarray(distilled) - np.asarray(alone)
    gain, gap = float(differences.mean()), teacher - float(np.mean(alone))
    noise = 2 * float(np.std(alone, ddof=1)) if len(alone) > 1 else 0.0
    ratios = differences / (teacher - np.asarray(alone)) if gap > noise else np.full(len(differences), np.nan)
    spread = float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0
    if len(differences) < 2:
        return Transfer(float(ratios.mean()), 0.0, gain, None, "inconclusive (one seed)")
    half = float(t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences)))
    interval = (gain - half, gain + half)
    verdict = "gain" if interval[0] > 0 else "no gain" if interval[1] < 0 else "inconclusive"
    return Transfer(float(ratios.mean()), spread, gain, interval, verdict)
