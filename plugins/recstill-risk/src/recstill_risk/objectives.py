"""What the raw score of a LightGBM model means, and how it becomes what a label needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recstill.api import LabelSpec
    from recstill_risk.textmodel import TextModel

_PLAIN = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
_LOG_MEAN = ("poisson", "gamma", "tweedie")
_GRADED = ("cross_entropy", "cross_entropy_lambda")
_SCORES = ("lambdarank", "rank_xendcg")
# What of a file may speak for a label, and what to train with instead.
_FITS = {
    "binary": ("binary", *_GRADED),
    "graded": _GRADED,
    "count": _LOG_MEAN,
    "regression": (*_PLAIN, *_LOG_MEAN),
    "ranking": (*_SCORES, "binary", *_GRADED, ""),
    "multiclass": ("multiclass",),
}
_OWN_LINE = {"binary": "cross_entropy", "count": "poisson", "regression": "regression"}


@dataclass(frozen=True)
class Scale:
    """How raw sums (N,) or (N, C) become log-odds, logs of means, or values: divided by the rounds of a forest, stretched,
    squared with their sign, or as the exponent of a mean."""

    divisor: float = 1.0
    stretch: float = 1.0
    squared: bool = False
    exponential: bool = False

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float32]:
        found = raw * (self.stretch / self.divisor)
        if self.squared:
            found = np.sign(found) * found**2
        if self.exponential:
            found = np.exp(found)
        return found.astype(np.float32)


def scale_of(model: TextModel, label: LabelSpec, name: str) -> Scale:
    """Return the scale of a model's scores for a label. Raise ValueError where its objective does not answer such a label."""
    objective, *words = model.objective or ("",)
    kind = "graded" if label.graded else label.kind
    if objective not in _FITS[kind]:
        raise ValueError(_misfit(name, objective, label, kind))
    _check_classes(model, words, label, name)
    return Scale(
        divisor=float(model.rounds) if model.average else 1.0,
        stretch=_sigmoid(words, name) if objective == "binary" else 1.0,
        squared="sqrt" in words and objective in _PLAIN and objective != "huber",
        exponential=objective in _LOG_MEAN and label.kind == "regression",
    )


def _misfit(name: str, objective: str, label: LabelSpec, kind: str) -> str:
    wanted = ", ".join(filter(None, _FITS[kind]))
    said = f"is trained with objective {objective!r}" if objective else "names no objective (a custom one)"
    text = f"{name} {said}, and label {label.name!r} is {kind}: train it with {wanted}"
    if objective in _SCORES:
        text += ", or declare the label as kind `ranking`: the scores of a ranker order rows and are no probabilities"
    if not objective and kind in _OWN_LINE:
        scale = {"binary": "log-odds", "count": "logs of means", "regression": "values"}[kind]
        text += f", or, if its raw scores are {scale}, add the line `objective={_OWN_LINE[kind]}` below max_feature_idx"
    return text


def _check_classes(model: TextModel, words: list[str], label: LabelSpec, name: str) -> None:
    wanted = label.num_classes if label.kind == "multiclass" else 1
    claimed = [word for word in words if word.startswith("num_class:")]
    if model.per_round != wanted or model.num_class != wanted or (wanted > 1 and claimed != [f"num_class:{wanted}"]):
        raise ValueError(f"{name} answers {model.per_round} classes, and label {label.name!r} has {wanted}")


def _sigmoid(words: list[str], name: str) -> float:
    said = [word.removeprefix("sigmoid:") for word in words if word.startswith("sigmoid:")]
    try:
        (value,) = map(float, said)
    except ValueError as error:
        raise ValueError(f"{name}: its objective says no `sigmoid:`, so the scale of its scores is not known") from error
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: its objective says sigmoid:{value}, which is no stretch")
    return value
