"""How a run judges a model: row by row, or by ranking the whole catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recstill.api.errors import ConfigError
from recstill.api.measured import Undefined, measured
from recstill.data.columns import Column, codes_of
from recstill.evaluation.fairness import band_metrics, fairness_metrics, stability_index
from recstill.evaluation.metrics import Floats, accuracy, evaluate_predictions, predictions_of
from recstill.evaluation.ranking import auc, spearman, why_undefined
from recstill.evaluation.retrieval import HeldOut, rank_of_targets, retrieval_metrics
from recstill.training.finite import stop_at_answers
from recstill.training.loop import predict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.measured import Measured
    from recstill.api.task import TaskSpec
    from recstill.embeddings.catalogue import Catalogue
    from recstill.recipes.rows import Role, RunRows


def row_metrics(rows: RunRows, predictions: Mapping[str, Floats], earlier: Floats | None = None) -> dict[str, Measured]:
    """Return all metrics of predictions for the test rows: of each label, between groups, by score band; the reason where one
    is undefined.

    earlier: predictions of the primary label for the validation rows, to see whether the scores moved since (`score.psi`).
    """
    task, truth = rows.task, rows.labels("test")
    found = evaluate_predictions(task.labels, truth, predictions, rows.groups("test"))
    name, test = task.primary.name, rows.snapshot.rows_of("test")
    if task.fairness and name in predictions:
        groups = {n: v.astype(np.float64) for n, v in rows.snapshot.columns(task.fairness, test).items()}
        found |= fairness_metrics(truth[name], predictions[name], groups, task.decision)
    if name in predictions:
        found |= _slice_metrics(rows, truth[name], predictions[name])
    if task.decision is not None and name in predictions:
        found |= band_metrics(truth[name], predictions[name], task.decision)
        if earlier is not None:
            found["score.psi"] = stability_index(earlier, predictions[name])
    return measured(found)


def _slice_metrics(rows: RunRows, truth: Floats, prediction: Floats) -> dict[str, float]:
    """The primary metric of the test rows of each value, under `slices.COLUMN.VALUE`; rows without one are `(missing)`."""
    task, groups, found = rows.task, rows.groups("test"), {}
    label, metric = task.primary, primary_metric(task)
    for column, values in rows.snapshot.typed(task.slices, rows.snapshot.rows_of("test")).items():
        assert isinstance(values, Column)  # lists are refused when the rows are checked
        codes = codes_of(values)
        firsts = np.unique(codes, return_index=True)[1]
        picked = values[firsts]
        words = ["(missing)" if gone else str(value) for value, gone in zip(picked.values, picked.is_missing, strict=True)]
        for word, first in sorted(zip(words, firsts.tolist(), strict=True)):
            here = np.flatnonzero(codes == codes[first])
            part = evaluate_predictions([label], {label.name: truth[here]}, {label.name: prediction[here]}, groups[here])
            found[f"slices.{column}.{word}"] = part[metric]
    return found


class Judge(Protocol):
    """Validates while training (higher is better, NaN where it is undefined), and tests at the end."""

    def validate(self, model: nn.Module) -> float: ...

    def test(self, model: nn.Module) -> dict[str, Measured]: ...


def judge_of(rows: RunRows, role: Role, *, bf16: bool = False) -> Judge:
    """Return the judge of a task's models."""
    return RetrievalJudge(rows, role) if rows.task.retrieval is not None else RowJudge(rows, role, bf16)


def primary_metric(task: TaskSpec) -> str:
    """The metric that verdicts and gates look at; higher is better."""
    if task.retrieval is not None:
        return f"{task.primary.name}.recall@{task.retrieval.k}"
    if task.primary.graded:
        return f"{task.primary.name}.ndcg@10"
    return f"{task.primary.name}.{'accuracy' if task.primary.kind == 'multiclass' else 'auc'}"


class RowJudge:
    """Judges rows: AUC (accuracy, Spearman, squared error) of the primary label while training, all metrics at the end."""

    def __init__(self, rows: RunRows, role: Role, bf16: bool) -> None:
        self.rows, self.role, self.bf16 = rows, role, bf16

    def validate(self, model: nn.Module) -> float:
        primary, valid = self.rows.task.primary, self.rows.tensors(self.role, "valid")
        truth = valid.labels[primary.name].numpy()
        known = ~np.isnan(truth)
        predicted = predictions_of(primary, predict(model, valid, bf16=self.bf16)[primary.name].numpy())[known]
        truth = truth[known]
        if primary.graded:
            return spearman(truth, predicted)
        if primary.kind in ("binary", "count"):
            return auc(truth, predicted)
        if primary.kind == "multiclass":
            return accuracy(truth, predicted)
        reason = why_undefined(truth, predicted)
        return Undefined(reason) if reason else -float(np.mean((predicted.astype(np.float64) - truth) ** 2))

    def test(self, model: nn.Module) -> dict[str, Measured]:
        task = self.rows.task
        logits = predict(model, self.rows.tensors(self.role, "test"))
        predictions = {label.name: predictions_of(label, logits[label.name].numpy()) for label in task.labels}
        earlier = None
        if task.decision is not None:
            primary = predict(model, self.rows.tensors(self.role, "valid"))[task.primary.name]
            earlier = predictions_of(task.primary, primary.numpy())
        return row_metrics(self.rows, predictions, earlier)


class RetrievalJudge:
    """Judges two-tower models by where each held-out item stands among all items that its query does not know."""

    def __init__(self, rows: RunRows, role: Role) -> None:
        self.rows, self.catalogue = rows, rows.catalogue(role)

    def validate(self, model: nn.Module) -> float:
        found = self._metrics(model, "valid", ("train",))
        return found[primary_metric(self.rows.task)]

    def test(self, model: nn.Module) -> dict[str, Measured]:
        return measured(self._metrics(model, "test", ("train", "valid")))

    def _metrics(self, model: nn.Module, split: str, known: tuple[str, ...]) -> dict[str, float]:
        retrieval = self.rows.task.retrieval
        assert retrieval is not None
        pairs = self.rows.pairs[self.rows.snapshot.rows_of(split)]
        queries, items = (vectors.numpy() for vectors in vectors_of(model, self.catalogue))
        ranks = rank_of_targets(queries, items, HeldOut(pairs, self.rows.known_pairs(*known)))
        label = self.rows.task.primary.name
        return {f"{label}.{name}": value for name, value in retrieval_metrics(ranks, pairs[:, 0], retrieval.k).items()}


@torch.no_grad()
def vectors_of(model: nn.Module, catalogue: Catalogue) -> tuple[Tensor, Tensor]:
    """Return the vectors (queries, d) and (items, d) of a two-tower model. Raise ConfigError if the model is none."""
    model.eval()
    queries, items = [], []
    for batch in catalogue.sweep():
        output = model(batch)
        if not {"query", "item"} <= set(output.hidden):
            raise ConfigError(
                f"Model {type(model).__name__}",
                ["a retrieval task needs a two-tower model: hidden `query` and `item` whose dot product is the score"],
            )
        queries.append(output.hidden["query"].float())
        items.append(output.hidden["item"].float())
        stop_at_answers({"query": queries[-1], "item": items[-1]})
        dots = (queries[-1] * items[-1]).sum(1)
        if not np.allclose(dots.numpy(), next(iter(output.logits.values())).float().numpy(), rtol=1e-3, atol=1e-3):
            raise ConfigError(f"Model {type(model).__name__}", ["its logit is not the dot product of `query` and `item`"])
    return torch.cat(queries)[: len(catalogue.queries)], torch.cat(items)[: len(catalogue.items)]
