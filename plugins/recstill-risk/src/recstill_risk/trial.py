"""Run as `python -m recstill_risk.trial`: loads the LightGBM model of standard input and asks it, in a process of its own.

Ends with 0 if all of its answers are finite numbers; whatever else happens, happens here only.
"""

from __future__ import annotations

import resource
import sys

import numpy as np

_SPARE_BYTES = 4 << 30
_CPU_SECONDS = 100
# What LightGBM's package would import beside its library if it is there: four fifths of its start.
_NOT_NEEDED = ("pandas", "sklearn", "dask", "matplotlib", "graphviz", "pyarrow", "cffi")
_VALUES = (0.0, 1.0, -1.0, 3.0, np.nan, 1e6, -1e6, 99_999.0)


def _ask(text: str) -> None:
    """Raise ValueError for a model whose answers are no finite numbers."""
    import lightgbm

    booster = lightgbm.Booster(model_str=text)
    rows = np.repeat(np.array(_VALUES)[:, None], booster.num_feature(), 1)
    rows = np.concatenate([rows, np.random.default_rng(0).normal(size=(24, rows.shape[1]))])
    if not np.isfinite(booster.predict(rows, raw_score=True)).all():
        raise ValueError("an answer is no finite number")
    booster.predict(rows, pred_leaf=True)


def main() -> None:
    """Limit the process, and ask."""
    text = sys.stdin.buffer.read().decode()
    resource.setrlimit(resource.RLIMIT_AS, (_SPARE_BYTES + 40 * len(text),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.modules.update(dict.fromkeys(_NOT_NEEDED))
    _ask(text)


if __name__ == "__main__":
    main()
