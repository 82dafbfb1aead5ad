"""Do two groups fare alike? Metrics by group, and the gaps between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recstill.evaluation.metrics import Floats, auc, calibration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.task import DecisionSpec


def fairness_metrics(
    truth: Floats, probability: Floats, attributes: Mapping[str, Floats], decision: DecisionSpec | None
) -> dict[str, float]:
    """Return AUC, calibration and approval rate of the groups 0 and 1 of each attribute, and the gap in approval rates
    (demographic parity, Dwork et al., 2012) and in AUC. Approved is who lies below the decision's threshold, or below the mean
    where the task decides nothing. Names are `fairness.ATTRIBUTE.METRIC`."""
    threshold = decision.threshold if decision is not None else float(np.nanmean(probability))
    found: dict[str, float] = {}
    for name, group in attributes.items():
        values: dict[str, list[float]] = {}
        for side in (0, 1):
            here = (group == side) & ~np.isnan(truth)
            one = {
                "auc": auc(truth[here], probability[here]),
                "calibration": calibration(truth[here], probability[here]),
                "approval": float(np.mean(probability[here] < threshold)) if here.any() else float("nan"),
            }
            for metric, value in one.items():
                found[f"fairness.{name}.{metric}_{side}"] = value
                values.setdefault(metric, []).append(value)
        found[f"fairness.{name}.approval_gap"] = abs(values["approval"][0] - values["approval"][1])
        found[f"fairness.{name}.auc_gap"] = abs(values["auc"][0] - values["auc"][1])
    return found


def stability_index(expected: Floats, found: Floats, bins: int = 10) -> float:
    """Population stability index of scores between two windows: sum (q - p) ln(q / p) over bins of equal size in the first one
    (Siddiqi, 2006): below 0.1 nothing moved, above 0.25 the population did."""
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = []
    for values in (expected, found):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def band_metrics(truth: Floats, probability: Floats, decision: DecisionSpec) -> dict[str, float]:
    """Return, by band, the share of rows, the mean score and the mean label: `bands.A.share`, `.score`, `.label`."""
    band = np.searchsorted(np.array(decision.bands), probability, side="right")
    found = {}
    for place, lower in enumerate((0.0, *decision.bands)):
        here = (band == place) & ~np.isnan(truth)
        letter = decision.band(lower)
        found[f"bands.{letter}.share"] = float(here.mean())
        if here.any():
            found[f"bands.{letter}.score"] = float(probability[here].mean())
            found[f"bands.{letter}.label"] = float(truth[here].mean())
    return found
