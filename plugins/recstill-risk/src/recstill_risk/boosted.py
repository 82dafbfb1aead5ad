"""A LightGBM model of a text file that was read wholly, tried in a process of its own, and then asked."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill_risk.textmodel import raw_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill_risk.objectives import Scale
    from recstill_risk.textmodel import TextModel

_TRIAL_SECONDS = 120
_tried: set[str] = set()


class Boosted:
    """The trees of a text model. Calling it: a matrix (N, features of the file) -> answers (N,) or (N, classes)."""

    def __init__(self, model: TextModel, scale: Scale, name: str, *, trusted: bool = False) -> None:
        """Load the trees. trusted: they were fitted in this process, so nothing can be wrong with them.

        Raise ValueError if LightGBM cannot load or ask them.
        """
        import lightgbm

        text = raw_text(model)
        _try(text, name, known=trusted)
        self.booster, self.scale = lightgbm.Booster(model_str=text), scale
        sizes = [tree.num_leaves for tree in model.trees]
        self.num_parameters = 3 * sum(sizes)
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.values = np.concatenate([tree.leaf_values for tree in model.trees]).astype(np.float32)

    def __call__(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        return self.scale(np.asarray(self.booster.predict(matrix, raw_score=True), np.float64))

    def leaves(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return (N, trees), the value of the leaf that each tree puts a row into."""
        places = np.asarray(self.booster.predict(matrix, pred_leaf=True), np.int64).reshape(len(matrix), -1)
        found: NDArray[np.float32] = self.values[self.starts + places]
        return found


def _try(text: str, name: str, *, known: bool) -> None:
    """Load and ask a model once where it can end nothing but a child process; each text once. Raise ValueError if it does."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if not known and digest not in _tried:
        environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "recstill_risk.trial"]
        try:
            ended = subprocess.run(
                command, input=text.encode(), capture_output=True, timeout=_TRIAL_SECONDS, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{name}: LightGBM was not done with it after {_TRIAL_SECONDS} seconds") from error
        if ended.returncode:
            raise ValueError(f"{name}: LightGBM {_ending(ended.returncode, ended.stderr.decode(errors='replace'))}")
    _tried.add(digest)


def _ending(code: int, said: str) -> str:
    if code < 0:
        return f"ends the process on it ({signal.Signals(-code).name})"
    last = said.strip().splitlines()[-1:] or ["no reason given"]
    return f"refuses it: {last[0][:300]}"
