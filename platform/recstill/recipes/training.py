"""Train and judge one model of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recstill.api.strategy import StrategyContext
from recstill.distillation.objective import Objective, Weighted, hidden_widths
from recstill.embeddings.tables import TableOptimizer, load_portable_state, portable_state, round_tables, training_inputs
from recstill.evaluation.metrics import auc, evaluate_predictions, predictions_of
from recstill.recipes.loading import build_strategy
from recstill.training.checkpoint import Checkpoints
from recstill.training.config import TrainingConfig
from recstill.training.loop import LossOf, fit, predict
from recstill.training.losses import supervised_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api.batch import Batch, Output
    from recstill.distillation.signals import StoredSignals
    from recstill.recipes.config import ModelConfig
    from recstill.recipes.rows import Role
    from recstill.recipes.run import Run


def build_model(run: Run, role: Role, seed: int, config: TrainingConfig) -> nn.Module:
    """Return a fresh model with training tables."""
    part: ModelConfig = run.recipe.teacher if role == "teacher" else run.recipe.student
    transform = run.rows.transform(role)
    tables = TableOptimizer(config.table_learning_rate, l2=config.table_l2)
    torch.manual_seed(seed)
    inputs = training_inputs(transform.num_dense, transform.slots, run.task.spec.labels, tables)
    model: nn.Module = run.platform.catalog(f"{role}s")[part.name](inputs, **part.options)
    return model


def train(run: Run, name: str, role: Role, seed: int, signals: StoredSignals | None = None) -> dict[str, Any]:
    """Train one model, store its weights under `name`, and return its history and test metrics.

    With signals the student learns from the teacher too, and then fine-tunes on labels alone if the recipe says so; without,
    the same budget of epochs goes to the labels.
    """
    config = run.recipe.teacher.training if role == "teacher" else run.recipe.student.training
    model = build_model(run, role, seed, config)
    objective = _objective(run, model, role, signals) if signals is not None else None
    history = _fit(run, name, role, model, config, seed, objective)
    fine_tune = run.recipe.distil.fine_tune
    if role == "student" and fine_tune is not None and fine_tune.epochs:
        tuned = build_model(run, role, seed, fine_tune)
        load_portable_state(tuned, portable_state(model))
        history += _fit(run, f"{name}.fine-tune", role, tuned, fine_tune, seed, None)
        model = tuned
    state = portable_state(model)
    if (run.recipe.teacher if role == "teacher" else run.recipe.student).table_dtype == "float16":
        state = round_tables(model, state)
    temporary = run.weights(name).with_suffix(".new")
    save_file(state, temporary)
    temporary.replace(run.weights(name))
    return {
        "history": history,
        "metrics": test_metrics(run, role, model),
        "num_parameters": sum(value.numel() for value in state.values()),
    }


def load_trained(run: Run, name: str, role: Role) -> nn.Module:
    """Return the model that `train` stored."""
    model = build_model(run, role, 0, TrainingConfig())
    load_portable_state(model, load_file(run.weights(name)))
    return model.eval()


def test_metrics(run: Run, role: Role, model: nn.Module) -> dict[str, float]:
    """Return all metrics of a model on the test split."""
    logits = predict(model, run.rows.tensors(role, "test"))
    return evaluate_predictions(run.task.spec.labels, run.rows.labels("test"), as_served(run, logits), run.rows.groups("test"))


def as_served(run: Run, logits: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return predictions on the labels' own scale."""
    return {label.name: predictions_of(label, logits[label.name].numpy()) for label in run.task.spec.labels}


def _fit(
    run: Run, name: str, role: Role, model: nn.Module, config: TrainingConfig, seed: int, objective: Objective | None
) -> list[dict[str, float]]:
    valid, primary = run.rows.tensors(role, "valid"), run.task.spec.primary
    truth = valid.labels[primary.name].numpy()

    def evaluate(current: nn.Module) -> dict[str, float]:
        predicted = predictions_of(primary, predict(current, valid, bf16=config.bf16)[primary.name].numpy())
        if primary.kind in ("binary", "count"):
            return {"score": auc(truth, predicted)}
        hit = predicted.argmax(1) == truth if primary.kind == "multiclass" else -((predicted - truth) ** 2)
        return {"score": float(hit.mean())}

    def after_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        text = f"{name} epoch {epoch + 1}/{config.epochs}: loss {metrics['loss']:.4f}, validation {metrics['score']:.4f}"
        run.progress.say(text)
        run.platform.plugins.hook.after_epoch(run_id=run.id, stage=name, epoch=epoch, metrics=dict(metrics))

    loss_of: LossOf = objective or (lambda output, batch: supervised_loss(run.task.spec.labels, output, batch))
    history = fit(
        model,
        run.rows.tensors(role, "train"),
        loss_of,
        config,
        seed=seed,
        evaluate=evaluate,
        checkpoints=Checkpoints(run.folder / "checkpoints" / f"{name}.safetensors"),
        extra=objective.parts if objective is not None and len(objective.parts) else None,
        progress=run.progress.steps,
        after_epoch=after_epoch,
    )
    return history.epochs


def _objective(run: Run, model: nn.Module, role: Role, signals: StoredSignals) -> Objective:
    probe = run.rows.tensors(role, "valid").batch(torch.arange(2))
    with torch.no_grad():
        widths = hidden_widths(model.eval()(probe))
    context = StrategyContext(run.task.spec.labels, widths, {})
    strategies = [
        Weighted(config.name, build_strategy(run.platform, config), config.weight) for config in run.recipe.distil.strategies
    ]

    def supervised(output: Output, batch: Batch) -> Tensor:
        return supervised_loss(run.task.spec.labels, output, batch)

    return Objective(supervised, strategies, context, lambda batch: signals.of(_ids(batch)))


def _ids(batch: Batch) -> Tensor:
    assert batch.row_ids is not None
    return batch.row_ids
