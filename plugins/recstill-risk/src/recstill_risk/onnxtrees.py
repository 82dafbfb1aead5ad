"""scikit-learn's forests as ONNX: written when they are fitted, asked by onnxruntime. Nothing is pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_FINITE = float(np.finfo(np.float32).max) / 4


def filled(matrix: NDArray[np.float64], medians: Sequence[float]) -> NDArray[np.float32]:
    """Return a matrix for a forest: single precision, missing values as the training median."""
    bounded = np.clip(matrix, -_FINITE, _FINITE)
    return np.where(np.isnan(bounded), np.array(medians)[None], bounded).astype(np.float32)


def fit_isolation(matrix: NDArray[np.float32], path: Path, seed: int) -> tuple[float, float]:
    """Fit on the training rows; return the mean and the spread of the anomaly score, which is higher for stranger rows."""
    from sklearn.ensemble import IsolationForest

    fitted = IsolationForest(n_estimators=100, random_state=seed).fit(matrix)
    write_onnx(fitted, matrix.shape[1], path)
    raw = -open_onnx(path)(matrix)[1].reshape(-1)
    return float(raw.mean()), float(raw.std()) or 1.0


def write_onnx(fitted: Any, width: int, path: Path) -> None:
    """Write a fitted estimator that reads (N, width)."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    options = {id(fitted): {"zipmap": False}} if hasattr(fitted, "predict_proba") else None
    opset = {"": 17, "ai.onnx.ml": 3}
    model = convert_sklearn(fitted, initial_types=[("x", FloatTensorType([None, width]))], options=options, target_opset=opset)
    path.write_bytes(model.SerializeToString())


def open_onnx(path: Path) -> Callable[[NDArray[np.float32]], list[NDArray[Any]]]:
    """Return what asks a model about a matrix (N, width). Raise ValueError for a file that is none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, all of them meaning "this file is not right"
        raise ValueError(f"{path} is no ONNX model: {error}") from error
    return lambda matrix: session.run(None, {"x": matrix})
