"""Advice about a recipe that is allowed, and may still disappoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recstill.evaluation.ranking import auc

if TYPE_CHECKING:
    from recstill.recipes.run import Run

TOO_PREDICTIVE = 0.05


def advice(run: Run) -> list[str]:
    """Return a remark for each privileged feature that alone ranks the primary label far better than any feature of the
    request: a teacher that leans on it knows what no student can learn, and its targets only add noise (Yang et al., 2022)."""
    label = run.task.spec.primary
    privileged = set(run.features["teacher"].privileged)
    if not privileged or label.kind not in ("binary", "count"):
        return []
    rows = run.snapshot.rows_of("train")
    rows = rows[:: max(1, len(rows) // 50_000)]
    numeric = [feature.name for feature in run.rows.features("teacher") if feature.kind == "numeric"]
    columns = run.snapshot.columns([*numeric, label.name], rows)
    truth = columns.pop(label.name).astype(np.float32)
    known = ~np.isnan(truth)
    numbers = {name: np.nan_to_num(values.astype(np.float64)) for name, values in columns.items()}
    strength = {name: abs(auc(truth[known], values[known]) - 0.5) for name, values in numbers.items()}
    best = max((value for name, value in strength.items() if name not in privileged), default=0.0)
    return [
        f"advice: privileged {name} alone ranks {label.name} with AUC {0.5 + strength[name]:.3f}, the best request feature "
        f"with {0.5 + best:.3f}; a teacher without it may teach better"
        for name in sorted(privileged & set(strength))
        if strength[name] > best + TOO_PREDICTIVE
    ]
