"""Teachers that read the rows' columns as they are: language models, tree ensembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from recstill.api.task import FeatureSpec, LabelSpec


@dataclass(frozen=True)
class ColumnInputs:
    """What a column teacher is built from: the features that it may read, the labels that it must answer."""

    features: tuple[FeatureSpec, ...]
    labels: tuple[LabelSpec, ...]


@dataclass(frozen=True)
class ColumnRows:
    """N rows. columns: {feature: (N,)} raw values, strings and lists as objects. labels: {label: (N,)}, NaN where not known.
    groups: (N,), rows of one request share a number."""

    columns: Mapping[str, NDArray[np.generic]]
    labels: Mapping[str, NDArray[np.float32]]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.groups)


class ColumnPredictor(Protocol):
    """A fitted column teacher. hidden: the width of each hidden vector that it gives."""

    hidden: Mapping[str, int]
    num_parameters: int

    def __call__(
        self, columns: Mapping[str, NDArray[np.generic]], hidden: Sequence[str] = ()
    ) -> Mapping[str, NDArray[np.float32]]:
        """Return {`logit_LABEL`: (N,)} on the scale of a model's logits (log-odds, log of the mean, or the value), and
        {`hidden_NAME`: (N, width)} for each name of `hidden`."""


class ColumnTeacher(Protocol):
    """Built as `Teacher(inputs, **options)`. What it learns lies in files that hold no code: safetensors, JSON, ONNX, text.

    Raise ValueError in the constructor for options that cannot be, before anything is trained. A class may offer
    `needs(options)`, the names of data sets (pretrained models) that must be fetched first, and a method `check()`, asked when
    a run is planned that would fit it: it raises ValueError for what the options name (files, models) and what cannot be used.
    hidden: the width of each hidden vector, as far as it is known before anything is fitted, once `check` was asked.
    """

    reads: ClassVar[Literal["columns"]]

    def fit(self, train: ColumnRows, valid: ColumnRows, folder: Path, seed: int, progress: Callable[[str], None]) -> None:
        """Train, and write the files of the model into `folder`.

        A killed run calls it again with the same folder: what it kept in files whose names begin with a dot it may go on
        from; they are no part of the model.
        """

    def open(self, folder: Path) -> ColumnPredictor:
        """Return the predictor of a folder that `fit` wrote. Raise ValueError for files that do not fit the inputs."""
