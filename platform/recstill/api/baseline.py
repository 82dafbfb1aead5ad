"""Reference predictors, trained on the same rows and features as the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from recstill.api.task import LabelSpec


@dataclass(frozen=True)
class BaselineData:
    """Columns of a snapshot split as arrays.

    features: {name: (N,)} raw values, categorical ones as int64 codes (-1 unseen or missing), lists left out.
    labels: {label: (N,)}.
    """

    features: Mapping[str, NDArray[np.generic]]
    categorical: tuple[str, ...]
    labels: Mapping[str, NDArray[np.float32]]


class Baseline(Protocol):
    """Fit on train (and valid, for early stopping), answer predictions for test: {label: (N,)} on the label's own scale."""

    def __call__(
        self,
        train: BaselineData,
        valid: BaselineData,
        test: BaselineData,
        labels: tuple[LabelSpec, ...],
        seed: int,
        progress: Callable[[str], None],
    ) -> Mapping[str, NDArray[np.float32]]:
        """Return the predictions of the test rows."""
