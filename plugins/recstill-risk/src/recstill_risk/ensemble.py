"""What tree teachers share: columns as a matrix, one model per label, files with digests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from recstill.data.files import sha256_of
from recstill_risk.matrix import Codes, OwnCodes, matrix_of, own_codes
from recstill_risk.onnxtrees import filled, fit_isolation, open_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.api import ColumnInputs, ColumnRows, FeatureSpec, LabelSpec

    Say = Callable[[str], None]

CARD = "trees.json"
_TRAINED = ("binary", "count", "regression")


@dataclass(frozen=True)
class Reading:
    """What a label's model reads: these features in this order, with these codes of categories."""

    features: Sequence[FeatureSpec]
    codes: Mapping[str, Codes | OwnCodes]


@dataclass(frozen=True)
class Fitted:
    """The model of one label. ask: a matrix -> answers on the label's scale. leaves: a matrix -> (N, leaf_width)."""

    ask: Callable[[NDArray[np.float64]], NDArray[np.float32]]
    num_parameters: int = 0
    reading: Reading | None = None
    leaves: Callable[[NDArray[np.float64]], NDArray[np.float32]] | None = None
    leaf_width: int = 0


@dataclass(frozen=True)
class Task:
    """One label to fit: rows that know it, to learn from and to stop early by; valid may be empty."""

    label: LabelSpec
    x: NDArray[np.float64]
    y: NDArray[np.float32]
    valid_x: NDArray[np.float64]
    valid_y: NDArray[np.float32]
    seed: int


class Trees:
    """A teacher of one ensemble per label, an isolation forest for a label without truth.

    Texts and sequences are left out. Categories become codes by how often training had them; a category never seen is missing.
    """

    reads: ClassVar[Literal["columns"]] = "columns"
    hidden: dict[str, int]

    def __init__(self, inputs: ColumnInputs, anomaly: str, brought: Mapping[str, str] | None = None) -> None:
        self.features = tuple(feature for feature in inputs.features if feature.kind in ("numeric", "categorical"))
        self.labels, self.anomaly, self.files = inputs.labels, anomaly, dict(brought or {})
        known = {label.name: label for label in self.labels}
        if anomaly and (anomaly not in known or known[anomaly].kind != "regression"):
            raise ValueError(f"anomaly: {anomaly!r} is no regression label of the task; it has {', '.join(known)}")
        if strange := sorted(set(self.files) - set(known)):
            raise ValueError(f"files: {', '.join(strange)}: no such label of the task; it has {', '.join(known)}")
        for label in self.labels:
            if label.kind not in _TRAINED and label.name not in self.files:
                raise ValueError(f"a tree teacher answers binary, count and regression labels; {label.name!r} is {label.kind}")
        if not self.features:
            raise ValueError("a tree teacher needs numeric or categorical features, and sees none")
        self.hidden = {}

    def fit(self, train: ColumnRows, valid: ColumnRows, folder: Path, seed: int, progress: Say) -> None:
        """Fit one ensemble per label on the rows that know it; write the files, and last the card with their digests."""
        categories = {f.name: own_codes(train.columns[f.name]) for f in self.features if f.kind == "categorical"}
        reading = self._reading(categories)
        x = [matrix_of(reading.features, rows.columns, reading.codes) for rows in (train, valid)]
        present = np.where(np.isfinite(x[0]), x[0], np.nan)
        medians = [float(np.nanmedian(column)) if (~np.isnan(column)).any() else 0.0 for column in present.T]
        card: dict[str, Any] = {
            "kind": type(self).__name__, "features": [f.name for f in self.features], "categories": categories,
            "medians": medians, "labels": [label.name for label in self.labels], "brought": sorted(self.files),
        }  # fmt: skip
        for label in self.labels:
            if label.name == self.anomaly:
                card["anomaly"] = fit_isolation(filled(x[0], medians), folder / f"{label.name}.onnx", seed)
                progress(f"{label.name}: isolation forest")
            elif label.name in self.files:
                self._take(label, train, folder, progress)
            else:
                self._fit(_task(label, (train, valid), x, seed), medians, folder, progress)
        names = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".txt", ".onnx")]
        card["sha256"] = {name: sha256_of(folder / name) for name in names}
        (folder / CARD).write_text(json.dumps(card))

    def open(self, folder: Path) -> Predictor:
        """Load the files. Raise ValueError for a changed or torn file, or one made for other features or labels."""
        card = json.loads((folder / CARD).read_text())
        wanted = {
            "kind": type(self).__name__, "features": [f.name for f in self.features],
            "labels": [label.name for label in self.labels],
        }  # fmt: skip
        for key, value in wanted.items():
            if card.get(key) != value:
                raise ValueError(f"{folder} is of another {key}: {card.get(key)} instead of {value}")
        for name, digest in card["sha256"].items():
            if sha256_of(folder / name) != digest:
                raise ValueError(f"{folder / name} was changed after it was fitted")
        models = {label.name: self._open(label, folder, card) for label in self.labels if label.name != self.anomaly}
        return Predictor(self, card, models, open_onnx(folder / f"{self.anomaly}.onnx") if self.anomaly else None)

    def _reading(self, categories: Mapping[str, Sequence[str]]) -> Reading:
        return Reading(self.features, {name: Codes(tuple(values)) for name, values in categories.items()})

    def _fit(self, task: Task, medians: Sequence[float], folder: Path, progress: Say) -> None:
        raise NotImplementedError

    def _take(self, label: LabelSpec, train: ColumnRows, folder: Path, progress: Say) -> None:
        raise NotImplementedError

    def _open(self, label: LabelSpec, folder: Path, card: Mapping[str, Any]) -> Fitted:
        raise NotImplementedError


class Predictor:
    """Fitted trees."""

    def __init__(self, teacher: Trees, card: Mapping[str, Any], models: Mapping[str, Fitted], isolation: Any) -> None:
        self.teacher, self.card, self.models, self.isolation = teacher, card, models, isolation
        self.own = teacher._reading(card["categories"])
        self.primary = next(label.name for label in teacher.labels if label.primary)
        width = models[self.primary].leaf_width if self.primary in models else 0
        self.hidden = {"leaves": width} if width else {}
        self.num_parameters = sum(model.num_parameters for model in models.values())

    def __call__(
        self, columns: Mapping[str, NDArray[np.generic]], hidden: Sequence[str] = ()
    ) -> dict[str, NDArray[np.float32]]:
        """Answer as `ColumnPredictor` says. Raise ValueError for a value that is no number where one is read."""
        readings = {id(reading): reading for reading in (self.own, *(m.reading for m in self.models.values())) if reading}
        matrices = {key: matrix_of(reading.features, columns, reading.codes) for key, reading in readings.items()}
        found = {f"logit_{name}": model.ask(matrices[id(model.reading or self.own)]) for name, model in self.models.items()}
        primary = self.models.get(self.primary)
        if "leaves" in hidden and primary is not None and primary.leaves is not None:
            found["hidden_leaves"] = primary.leaves(matrices[id(primary.reading or self.own)])
        if self.isolation is not None:
            raw = self.isolation(filled(matrices[id(self.own)], self.card["medians"]))[1].reshape(-1)
            mean, std = self.card["anomaly"]
            found[f"logit_{self.teacher.anomaly}"] = ((-raw - mean) / std).astype(np.float32)
        return found


def _task(label: LabelSpec, rows: Sequence[ColumnRows], x: Sequence[NDArray[np.float64]], seed: int) -> Task:
    """Return the rows that know a label. Raise ValueError for labels that are none of its kind, or tell nothing apart."""
    parts = []
    for part, matrix in zip(rows, x, strict=True):
        values = part.labels[label.name]
        known = ~np.isnan(values)
        _check_labels(label, values[known])
        parts += [matrix[known], values[known]]
    if not len(parts[1]):
        raise ValueError(f"label {label.name!r} is known for no training row; name it `anomaly`, or bring labels")
    if label.kind == "binary" and len(np.unique(parts[1])) < 2:
        raise ValueError(f"label {label.name!r} has one class only in training: there is nothing to tell apart")
    return Task(label, *parts, seed)


def _check_labels(label: LabelSpec, values: NDArray[np.float32]) -> None:
    fits = np.isfinite(values)
    wanted = "finite numbers"
    if label.kind == "binary" and label.graded:
        fits, wanted = (values >= 0) & (values <= 1), "grades from 0 to 1"
    elif label.kind == "binary":
        fits, wanted = (values == 0) | (values == 1), "0 or 1"
    elif label.kind == "count":
        fits, wanted = fits & (values >= 0), "counts from 0"
    if not fits.all():
        wrong = values[~fits]
        raise ValueError(
            f"label {label.name!r} must be {wanted}, and {len(wrong):,} rows have others, such as {float(wrong[0]):g}"
        )
