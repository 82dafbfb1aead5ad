"""Do two groups fare alike? Metrics by group, and the gaps between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recstill.api.measured import Undefined
from recstill.evaluation.metrics import Floats, calibration
from recstill.evaluation.ranking import auc, why_undefined

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
        sides = []
        for side in (0, 1):
            here = (group == side) & ~np.isnan(truth)
            sides.append(_group_metrics(truth[here], probability[here], threshold))
            found |= {f"fairness.{name}.{metric}_{side}": value for metric, value in sides[-1].items()}
        found[f"fairness.{name}.approval_gap"] = _gap(sides[0]["approval"], sides[1]["approval"])
        found[f"fairness.{name}.auc_gap"] = _gap(sides[0]["auc"], sides[1]["auc"])
    return found


def _group_metrics(truth: Floats, probability: Floats, threshold: float) -> dict[str, float]:
    reason = why_undefined(truth, probability)
    approval = Undefined(reason) if reason else float(np.mean(probability < threshold))
    return {"auc": auc(truth, probability), "calibration": calibration(truth, probability), "approval": approval}


def _gap(first: float, second: float) -> float:
    undefined = [(side, value) for side, value in enumerate((first, second)) if isinstance(value, Undefined)]
    if undefined:
        return Undefined("; ".join(f"group {side}: {value.reason}" for side, value in undefined))
    return abs(first - second)


def stability_index(expected: Floats, found: Floats, bins: int = 10) -> float:
    """Population stability index of scores between two windows: sum (q - p) ln(q / p) over bins of equal size in the first one
    (Siddiqi, 2006): below 0.1 nothing moved, above 0.25 the population did."""
    for name, values in (("earlier", expected), ("later", found)):
        if reason := why_undefined(values, values):
            return Undefined(f"of the {name} window {reason}")
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = []
    for values in (expected, found):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def band_metrics(truth: Floats, probability: Floats, decision: DecisionSpec) -> dict[str, float]:
    """Return, by band, the share of rows, the mean score and the mean label: `bands.A.share`, `.score`, `.label`."""
    band = np.searchsorted(np.array(decision.bands), probability, side="right")
    reason = why_undefined(probability, probability)
    found: dict[str, float] = {}
    for place, lower in enumerate((0.0, *decision.bands)):
        here = (band == place) & ~np.isnan(truth)
        why = reason or ("" if here.any() else "no row has a score in this band")
        letter = decision.band(lower)
        found[f"bands.{letter}.share"] = Undefined(reason) if reason else float(here.mean())
        found[f"bands.{letter}.score"] = Undefined(why) if why else float(probability[here].mean())
        found[f"bands.{letter}.label"] = Undefined(why) if why else float(truth[here].mean())
    return found
