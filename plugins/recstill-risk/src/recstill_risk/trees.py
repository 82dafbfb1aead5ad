"""Tree ensembles as teachers: LightGBM in its text format, scikit-learn's forests as ONNX. Nothing is pickled."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill_risk.boosted import Boosted
from recstill_risk.brought import check_values, codes_of, match_features, read_brought
from recstill_risk.ensemble import Fitted, Reading, Task, Trees
from recstill_risk.objectives import scale_of
from recstill_risk.onnxtrees import filled, open_onnx, write_onnx
from recstill_risk.textmodel import load_text_model, read_text_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from recstill.api import ColumnInputs, ColumnRows, LabelSpec
    from recstill_risk.ensemble import Say
    from recstill_risk.textmodel import TextModel

_LIMIT = 1e-6
_HELD_OUT = 10  # one row of so many, where no validation row knows a label


class LightGBMTeacher(Trees):
    """Gradient-boosted trees, one booster per label, stopped early on the validation rows (Ke et al., 2017).

    A graded label is fitted as the expected grade (`cross_entropy`). anomaly: a regression label that nobody knows, answered by
    an isolation forest (Liu et al., 2008), standardised.

    files: {label: path} of boosters in LightGBM's text format that you have already. They are read before anything is trained
    and taken as they are, not trained: features are found by name, values of categories by the file's `pandas_categorical`, and
    the scores are brought to the label's scale by its objective, `sigmoid`, `sqrt` and average. What a file does not say
    itself is asked for. codes: {feature: [value of code 0, value of code 1, …]}, or {feature: values} where the values are the
    codes, for categories of a file without `pandas_categorical`.

    hidden: `leaves` (N, rounds), or of a file (N, its trees), the value of the leaf that each tree of the primary label puts a
    row into.
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
        codes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(inputs, anomaly, files)
        if min(rounds, leaves - 1, min_child_samples, patience) < 1 or not 0 < learning_rate <= 1:
            raise ValueError("rounds, min_child_samples and patience must be above 0, leaves above 1, learning_rate in (0, 1]")
        self.codes = dict(codes or {})
        if strange := sorted(set(self.codes) - {feature.name for feature in self.features}):
            raise ValueError(f"codes: {', '.join(strange)}: no such numeric or categorical feature of the task")
        self.rounds, self.patience = rounds, patience
        self.settings = {
            "num_leaves": leaves, "learning_rate": learning_rate, "min_child_samples": min_child_samples, "verbose": -1,
            "feature_fraction": feature_fraction, "deterministic": True, "force_col_wise": True,
        }  # fmt: skip
        primary = next((label.name for label in self.labels if label.primary), "")
        self.hidden = {} if primary == anomaly else {"leaves": rounds}
        self.primary = primary

    def check(self) -> None:
        """Read the files that would be taken, and try them. Raise ValueError for one that cannot be, or does not fit."""
        for label in self.labels:
            if label.name in self.files:
                path = self.files[label.name]
                model = read_brought(path)
                self._brought(model, label, path)
                if label.name == self.primary:
                    self.hidden = {"leaves": len(model.trees)}

    def _take(self, label: LabelSpec, train: ColumnRows, folder: Path, progress: Say) -> None:
        path = self.files[label.name]
        self.check()
        content = Path(path).read_bytes()
        taken = self._brought(read_text_model(content, path), label, path)
        assert taken.reading is not None
        check_values(taken.reading.codes, train.columns, path, progress)
        (folder / f"{label.name}.txt").write_bytes(content)
        progress(f"{label.name}: taken from {path}")

    def _brought(self, model: TextModel, label: LabelSpec, name: str) -> Fitted:
        features = match_features(model, self.features, name)
        reading = Reading(features, codes_of(model, features, self.codes, name))
        boosted = Boosted(model, scale_of(model, label, name), name)
        return Fitted(boosted, boosted.num_parameters, reading, boosted.leaves, len(model.trees))

    def _fit(self, task: Task, medians: Sequence[float], folder: Path, progress: Say) -> None:
        import lightgbm

        label, learn_on, check_on = task.label, (task.x, task.y), (task.valid_x, task.valid_y)
        if not len(task.valid_y):
            learn_on, check_on = _held_out(task)
            progress(f"{label.name}: no validation row knows it; early stopping holds out {len(check_on[1]):,} training rows")
        names = [f"f{place}" for place in range(len(self.features))]  # LightGBM takes no name with a space, a colon, a comma …
        categorical = [name for name, feature in zip(names, self.features, strict=True) if feature.kind == "categorical"]
        settings = {**self.settings, "objective": _objective(label), "seed": task.seed}
        with _as_value_error(label):
            learn = lightgbm.Dataset(*learn_on, feature_name=names, categorical_feature=categorical, params=settings)
            check = lightgbm.Dataset(*check_on, reference=learn, params=settings)
            stop = lightgbm.early_stopping(self.patience, verbose=False)
            booster = lightgbm.train(settings, learn, self.rounds, valid_sets=[check], callbacks=[stop])
            text = booster.model_to_string(num_iteration=booster.best_iteration)
        target = folder / f"{label.name}.txt"
        target.write_text(text)
        model = read_text_model(text.encode(), str(target))
        Boosted(model, scale_of(model, label, str(target)), str(target), trusted=True)
        progress(f"{label.name}: {booster.best_iteration} trees")

    def _open(self, label: LabelSpec, folder: Path, card: Mapping[str, Any]) -> Fitted:
        path = folder / f"{label.name}.txt"
        model = load_text_model(path)
        if label.name in card.get("brought", ()):
            return self._brought(model, label, str(path))
        names = tuple(feature.name for feature in self.features)
        if model.features not in (names, tuple(f"f{place}" for place in range(len(names)))) or model.categories:
            raise ValueError(f"{path} was taken by an older recstill, which read its categories wrongly; fit the teacher anew")
        boosted = Boosted(model, scale_of(model, label, str(path)), str(path))
        return Fitted(boosted, boosted.num_parameters, None, self._padded(boosted), self.rounds)

    def _padded(self, boosted: Boosted) -> Any:
        """Rounds that early stopping left out are zero."""

        def leaves(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
            found = np.zeros((len(matrix), self.rounds), np.float32)
            values = boosted.leaves(matrix)[:, : self.rounds]
            found[:, : values.shape[1]] = values
            return found

        return leaves


class ForestTeacher(Trees):
    """scikit-learn's random forest, one per label (Breiman, 2001), kept as ONNX; missing values are the training median.

    A graded label is fitted as the expected grade. anomaly: as for `lightgbm`.
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

    def _fit(self, task: Task, medians: Sequence[float], folder: Path, progress: Say) -> None:
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        forest = RandomForestClassifier if _has_classes(task.label) else RandomForestRegressor
        fitted = forest(**self.options, random_state=task.seed, n_jobs=2).fit(filled(task.x, medians), task.y)
        write_onnx(fitted, task.x.shape[1], folder / f"{task.label.name}.onnx")
        progress(f"{task.label.name}: {self.options['n_estimators']} trees")

    def _open(self, label: LabelSpec, folder: Path, card: Mapping[str, Any]) -> Fitted:
        session, medians = open_onnx(folder / f"{label.name}.onnx"), card["medians"]

        def answer(matrix: NDArray[np.float64]) -> NDArray[np.float32]:
            found = session(filled(matrix, medians))
            mean = found[1][:, 1] if _has_classes(label) else found[0].reshape(-1)
            if label.kind != "binary":
                return mean.astype(np.float32)
            p = np.clip(mean.astype(np.float64), _LIMIT, 1 - _LIMIT)
            return (np.log(p) - np.log1p(-p)).astype(np.float32)

        return Fitted(answer)


def _has_classes(label: LabelSpec) -> bool:
    return label.kind == "binary" and not label.graded


def _objective(label: LabelSpec) -> str:
    if label.graded:
        return "cross_entropy"
    return {"binary": "binary", "count": "poisson", "regression": "regression"}[label.kind]


def _held_out(task: Task) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return rows to learn from and rows to stop early by, drawn from the training rows that know the label."""
    place = np.random.default_rng(task.seed).permutation(len(task.y))
    some = max(1, len(place) // _HELD_OUT)
    check, learn = np.sort(place[:some]), np.sort(place[some:]) if len(place) > 1 else place
    return (task.x[learn], task.y[learn]), (task.x[check], task.y[check])


@contextmanager
def _as_value_error(label: LabelSpec) -> Iterator[None]:
    """Let LightGBM's own error type be told as a mistake of the data or the options, which it is."""
    import lightgbm

    try:
        yield
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot fit label {label.name!r}: {str(error).strip()}") from error
