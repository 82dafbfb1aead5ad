"""Tree ensembles as teachers: LightGBM in its text format, scikit-learn's forests as ONNX. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from recstill.data.files import sha256_of
from recstill_risk.textmodel import check_text_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from recstill.api import ColumnInputs, ColumnRows, LabelSpec

_CARD = "trees.json"
_MOST_CATEGORIES = 1_000
_LIMIT = 1e-6
_FINITE = float(np.finfo(np.float32).max) / 4


class _Trees:
    """What tree teachers share: columns as numbers, files with digests, an isolation forest for a label without truth.

    Texts and sequences are left out. Categories become codes by how often training had them; a category never seen is missing.
    """

    reads: ClassVar[Literal["columns"]] = "columns"
    hidden: dict[str, int]

    def __init__(self, inputs: ColumnInputs, anomaly: str) -> None:
        self.features = tuple(feature for feature in inputs.features if feature.kind in ("numeric", "categorical"))
        self.labels = inputs.labels
        self.anomaly = anomaly
        known = {label.name: label for label in self.labels}
        if anomaly and (anomaly not in known or known[anomaly].kind != "regression"):
            raise ValueError(f"anomaly: {anomaly!r} is no regression label of the task; it has {', '.join(known)}")
        if wrong := [label for label in self.labels if label.kind not in ("binary", "count", "regression")]:
            raise ValueError(
                f"a tree teacher answers binary, count and regression labels; {wrong[0].name!r} is {wrong[0].kind}"
            )
        if not self.features:
            raise ValueError("a tree teacher needs numeric or categorical features, and sees none")
        self.hidden = {}

    def fit(self, train: ColumnRows, valid: ColumnRows, folder: Path, seed: int, progress: Callable[[str], None]) -> None:
        """Fit one ensemble per label on the rows that know it; write the files, and last the card with their digests."""
        categories = {f.name: _categories(train.columns[f.name]) for f in self.features if f.kind == "categorical"}
        matrix = [self._matrix(rows.columns, categories) for rows in (train, valid)]
        medians = [float(value) for value in np.nan_to_num(np.nanmedian(matrix[0].astype(np.float64), axis=0))]
        card: dict[str, Any] = {
            "kind": type(self).__name__, "features": [f.name for f in self.features], "categories": categories,
            "medians": medians, "labels": [label.name for label in self.labels],
        }  # fmt: skip
        for label in self.labels:
            if label.name == self.anomaly:
                card["anomaly"] = _fit_isolation(_filled(matrix[0], medians), folder / f"{label.name}.onnx", seed)
                progress(f"{label.name}: isolation forest")
                continue
            known = [~np.isnan(rows.labels[label.name]) for rows in (train, valid)]
            y = [rows.labels[label.name][here] for rows, here in zip((train, valid), known, strict=True)]
            if not len(y[0]):
                raise ValueError(f"label {label.name!r} is known for no training row; name it `anomaly`, or bring labels")
            if label.kind == "binary" and len(np.unique(y[0] > 0)) < 2:
                raise ValueError(f"label {label.name!r} has one class only in training: there is nothing to tell apart")
            x = [part[here] for part, here in zip(matrix, known, strict=True)]
            self._fit(label, x, y, medians, folder, seed, progress)
        names = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".txt", ".onnx")]
        card["sha256"] = {name: sha256_of(folder / name) for name in names}
        (folder / _CARD).write_text(json.dumps(card))

    def open(self, folder: Path) -> _Predictor:
        """Load the files. Raise ValueError for a changed or torn file, or one made for other features or labels."""
        card = json.loads((folder / _CARD).read_text())
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
        models = {label.name: self._open(label, folder) for label in self.labels if label.name != self.anomaly}
        return _Predictor(self, card, models, _open_onnx(folder / f"{self.anomaly}.onnx") if self.anomaly else None)

    def _fit(self, label: LabelSpec, x: Any, y: Any, medians: Any, folder: Path, seed: int, progress: Any) -> None:
        raise NotImplementedError

    def _open(self, label: LabelSpec, folder: Path) -> Any:
        """Return a function: (N, F) -> logits (N,)."""
        raise NotImplementedError

    def _matrix(self, columns: Mapping[str, NDArray[np.generic]], categories: Mapping[str, list[str]]) -> NDArray[np.float32]:
        parts = []
        for feature in self.features:
            values = columns[feature.name]
            if feature.kind == "categorical":
                code = {text: float(place) for place, text in enumerate(categories[feature.name])}
                parts.append(np.array([code.get(_text(value), np.nan) for value in values.tolist()], np.float32))
            else:
                parts.append(np.clip(values.astype(np.float64), -_FINITE, _FINITE).astype(np.float32))
        return np.stack(parts, 1)


class _Predictor:
    """Fitted trees."""

    def __init__(self, teacher: _Trees, card: Mapping[str, Any], models: Mapping[str, Any], isolation: Any) -> None:
        self.teacher, self.card, self.models, self.isolation = teacher, card, models, isolation
        self.hidden = teacher.hidden
        self.num_parameters = sum(getattr(model, "num_parameters", 0) for model in models.values())

    def __call__(
        self, columns: Mapping[str, NDArray[np.generic]], hidden: Sequence[str] = ()
    ) -> dict[str, NDArray[np.float32]]:
        matrix = self.teacher._matrix(columns, self.card["categories"])
        found: dict[str, NDArray[np.float32]] = {f"logit_{name}": model(matrix) for name, model in self.models.items()}
        if "leaves" in hidden:
            primary = next(label.name for label in self.teacher.labels if label.primary)
            found["hidden_leaves"] = self.models[primary].leaves(matrix)
        if self.isolation is not None:
            raw = self.isolation(_filled(matrix, self.card["medians"]))[1].reshape(-1)
            mean, std = self.card["anomaly"]
            found[f"logit_{self.teacher.anomaly}"] = ((-raw - mean) / std).astype(np.float32)
        return found


class LightGBMTeacher(_Trees):
    """Gradient-boosted trees, one booster per label, stopped early on the validation rows (Ke et al., 2017).

    anomaly: a regression label that nobody knows, answered by an isolation forest (Liu et al., 2008), standardised. files:
    {label: path} of boosters in LightGBM's text format that you have already; they must read the task's features by name and
    are copied, not trained. hidden: `leaves` (N, rounds), the value of the leaf that each tree of the primary label puts a row
    into.
    """

    def __init__(
        self,
        inputs: ColumnInputs,
        *,
        rounds: int = 300,
        leaves: int = 31,
        learning_rate: float = 0.05,
        min_child_samples: int = 20,
        patience: int = 30,
        feature_fraction: float = 0.8,
        anomaly: str = "",
        files: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(inputs, anomaly)
        if min(rounds, leaves - 1, min_child_samples, patience) < 1 or not 0 < learning_rate <= 1:
            raise ValueError("rounds, min_child_samples and patience must be above 0, leaves above 1, learning_rate in (0, 1]")
        self.rounds, self.patience, self.files = rounds, patience, dict(files or {})
        self.settings = {
            "num_leaves": leaves, "learning_rate": learning_rate, "min_child_samples": min_child_samples, "verbose": -1,
            "feature_fraction": feature_fraction, "deterministic": True, "force_col_wise": True,
        }  # fmt: skip
        self.hidden = {"leaves": rounds}

    def _fit(self, label: LabelSpec, x: Any, y: Any, medians: Any, folder: Path, seed: int, progress: Any) -> None:
        import lightgbm

        target = folder / f"{label.name}.txt"
        if label.name in self.files:
            brought = Path(self.files[label.name])
            if not brought.is_file():
                raise ValueError(f"files: {brought} is not there")
            target.write_text(brought.read_text(errors="replace"))
            self._open(label, folder)
            progress(f"{label.name}: taken from {self.files[label.name]}")
            return
        names = [feature.name for feature in self.features]
        categorical = [feature.name for feature in self.features if feature.kind == "categorical"]
        objective = {"binary": "binary", "count": "poisson", "regression": "regression"}[label.kind]
        settings = {**self.settings, "objective": objective, "seed": seed}
        learn = lightgbm.Dataset(x[0], y[0], feature_name=names, categorical_feature=categorical, params=settings)
        check = lightgbm.Dataset(x[1], y[1], reference=learn, params=settings)
        stop = lightgbm.early_stopping(self.patience, verbose=False)
        booster = lightgbm.train(settings, learn, self.rounds, valid_sets=[check], callbacks=[stop])
        target.write_text(booster.model_to_string(num_iteration=booster.best_iteration))
        progress(f"{label.name}: {booster.best_iteration} trees")

    def _open(self, label: LabelSpec, folder: Path) -> Any:
        import lightgbm

        path = folder / f"{label.name}.txt"
        text = path.read_text(errors="replace")
        check_text_model(text, str(path), [feature.name for feature in self.features])
        return _Boosted(lightgbm.Booster(model_str=text), self.rounds)


class _Boosted:
    def __init__(self, booster: Any, rounds: int) -> None:
        self.booster, self.rounds = booster, rounds
        dumped = booster.dump_model()["tree_info"]
        self.num_parameters = sum(3 * tree["num_leaves"] for tree in dumped)
        most = max((tree["num_leaves"] for tree in dumped), default=1)
        self.values = np.zeros((len(dumped), most), np.float32)
        for number, tree in enumerate(dumped):
            for leaf in range(tree["num_leaves"]):
                self.values[number, leaf] = booster.get_leaf_output(number, leaf)

    def __call__(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self.booster.predict(matrix, raw_score=True), np.float32)

    def leaves(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        places = np.asarray(self.booster.predict(matrix, pred_leaf=True), np.int64).reshape(len(matrix), -1)
        leaves = np.zeros((len(matrix), self.rounds), np.float32)
        kept = min(self.rounds, places.shape[1])
        leaves[:, :kept] = self.values[np.arange(kept)[None], places[:, :kept]]
        return leaves


class ForestTeacher(_Trees):
    """scikit-learn's random forest, one per label (Breiman, 2001), kept as ONNX; missing values are the training median.

    anomaly: as for `lightgbm`.
    """

    def __init__(
        self, inputs: ColumnInputs, *, trees: int = 200, min_leaf: int = 10, max_depth: int = 16, anomaly: str = ""
    ) -> None:
        super().__init__(inputs, anomaly)
        if min(trees, min_leaf, max_depth) < 1:
            raise ValueError("trees, min_leaf and max_depth must be above 0")
        if counts := [label.name for label in self.labels if label.kind == "count"]:
            raise ValueError(f"a forest answers binary and regression labels, and {counts[0]!r} is a count")
        self.options = {"n_estimators": trees, "min_samples_leaf": min_leaf, "max_depth": max_depth}

    def _fit(self, label: LabelSpec, x: Any, y: Any, medians: Any, folder: Path, seed: int, progress: Any) -> None:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        forest = RandomForestClassifier if label.kind == "binary" else RandomForestRegressor
        fitted = forest(**self.options, random_state=seed, n_jobs=2).fit(_filled(x[0], medians), y[0])
        _write_onnx(fitted, x[0].shape[1], folder / f"{label.name}.onnx")
        progress(f"{label.name}: {self.options['n_estimators']} trees")

    def _open(self, label: LabelSpec, folder: Path) -> Any:
        session = _open_onnx(folder / f"{label.name}.onnx")
        card = json.loads((folder / _CARD).read_text())

        def answer(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
            found = session(_filled(matrix, card["medians"]))
            if label.kind != "binary":
                return found[0].reshape(-1).astype(np.float32)
            p = np.clip(found[1][:, 1].astype(np.float64), _LIMIT, 1 - _LIMIT)
            return (np.log(p) - np.log1p(-p)).astype(np.float32)

        return answer


def _fit_isolation(matrix: NDArray[np.float32], path: Path, seed: int) -> tuple[float, float]:
    """Fit on the training rows; return the mean and the spread of the anomaly score, which is higher for stranger rows."""
    from sklearn.ensemble import IsolationForest

    fitted = IsolationForest(n_estimators=100, random_state=seed).fit(matrix)
    _write_onnx(fitted, matrix.shape[1], path)
    raw = -_open_onnx(path)(matrix)[1].reshape(-1)
    return float(raw.mean()), float(raw.std()) or 1.0


def _write_onnx(fitted: Any, width: int, path: Path) -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    options = {id(fitted): {"zipmap": False}} if hasattr(fitted, "predict_proba") else None
    opset = {"": 17, "ai.onnx.ml": 3}
    model = convert_sklearn(fitted, initial_types=[("x", FloatTensorType([None, width]))], options=options, target_opset=opset)
    path.write_bytes(model.SerializeToString())


def _open_onnx(path: Path) -> Callable[[NDArray[np.float32]], list[NDArray[Any]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, all of them meaning "this file is not right"
        raise ValueError(f"{path} is no ONNX model: {error}") from error
    return lambda matrix: session.run(None, {"x": matrix})


def _filled(matrix: NDArray[np.float32], medians: list[float]) -> NDArray[np.float32]:
    return np.where(np.isnan(matrix), np.array(medians, np.float32)[None], matrix)


def _categories(values: NDArray[np.generic]) -> list[str]:
    texts, counts = np.unique([_text(value) for value in values.tolist()], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_CATEGORIES]
    return [str(text) for text in texts[order] if text]


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
