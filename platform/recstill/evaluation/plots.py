"""Plots of a report, as inline SVG."""

from __future__ import annotations

import io

import matplotlib as mpl

mpl.use("svg")
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from recstill.evaluation.metrics import Floats, calibration_curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

mpl.rcParams["svg.fonttype"] = "none"  # text stays text: smaller pages, and readers can search them
mpl.rcParams["svg.hashsalt"] = "recstill"  # ids of the content alone: the same figures make the same page
_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Training loss and validation score by epoch, a line per model."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for colour, (name, epochs) in zip(_COLOURS * 4, histories.items(), strict=False):
        steps = range(1, len(epochs) + 1)
        axes[0].plot(steps, [epoch["loss"] for epoch in epochs], marker="o", ms=3, color=colour, label=name)
        axes[1].plot(steps, [epoch["score"] for epoch in epochs], marker="o", ms=3, color=colour, label=name)
    axes[0].set(xlabel="epoch", ylabel="training loss")
    axes[1].set(xlabel="epoch", ylabel="validation score")
    axes[1].legend(fontsize=7, frameon=False)
    return _svg(figure)


def calibration_plot(label: str, truth: Floats, predictions: Mapping[str, Floats]) -> str:
    """Mean prediction against mean label in bins of equal size, a line per model."""
    figure, axis = plt.subplots(figsize=(4.4, 3.6))
    top = 0.0
    for colour, (name, values) in zip(_COLOURS, predictions.items(), strict=False):
        predicted, actual, _ = calibration_curve(truth, values)
        axis.plot(predicted, actual, marker="o", ms=3, color=colour, label=name)
        top = max(top, float(predicted.max()), float(actual.max()))
    axis.plot([0, top], [0, top], color="#999999", lw=0.8, ls="--")
    axis.set(xlabel=f"mean predicted {label}", ylabel=f"mean {label}")
    axis.legend(fontsize=7, frameon=False)
    return _svg(figure)


def bars_with_spread(values: Mapping[str, tuple[float, float]], ylabel: str) -> str:
    """A bar per model with its spread over seeds; the axis begins near the lowest value, and says so."""
    figure, axis = plt.subplots(figsize=(5.6, 3.2))
    means = [mean for mean, _ in values.values()]
    axis.bar(list(values), means, yerr=[spread for _, spread in values.values()], color=_COLOURS[: len(values)], capsize=4)
    low = min(means) - 0.25 * (max(means) - min(means) or 0.01)
    axis.set(ylabel=f"{ylabel} (axis from {low:.3f})", ylim=(low, None))
    axis.tick_params(axis="x", labelrotation=15, labelsize=8)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
