"""Train and judge one model of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from recstill.api.errors import ConfigError
from recstill.api.measured import measure, text_of
from recstill.api.strategy import StrategyContext
from recstill.distillation.objective import Objective, StudentRunner, Weighted, attention_shapes, hidden_widths
from recstill.embeddings.batches import TensorRows
from recstill.embeddings.catalogue import ListSampler
from recstill.embeddings.tables import (
    TableOptimizer,
    TrainingTables,
    load_portable_state,
    num_parameters,
    portable_state,
    round_tables,
    training_inputs,
)
from recstill.recipes.checking import build_strategy
from recstill.recipes.judging import judge_of
from recstill.recipes.remarks import LAST_IS_BEST
from recstill.training.checkpoint import Checkpoints
from recstill.training.loop import DenseForward, TrainingRows, fit, has_fast_bf16
from recstill.training.losses import label_terms, supervised_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from recstill.api.batch import Batch, Output
    from recstill.distillation.signals import SignalSource
    from recstill.recipes.rows import Role
    from recstill.recipes.run import Run
    from recstill.training.config import TrainingConfig


def build_model(run: Run, role: Role, seed: int, config: TrainingConfig, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a fresh model with training tables, of the recipe's options unless others are given."""
    part = run.recipe.part(role)
    transform = run.rows.transform(role)
    tables = TableOptimizer(
        config.table_learning_rate, l2=config.table_l2, kind=config.table_optimizer, init_std=config.table_init_std
    )
    torch.manual_seed(seed)
    query = run.rows.query_places(role)
    labels, names = run.task.spec.labels, transform.dense_names
    inputs = training_inputs(transform.num_dense, transform.slots, labels, tables, query=query, dense_names=names)
    try:
        model: nn.Module = run.factory(role)(inputs, **(part.options if options is None else options))
    except ValueError as error:
        raise ConfigError(f"Recipe {run.name!r}", [f"{role}.options: {error}"]) from error
    return model


def begin_from(run: Run, role: Role, model: nn.Module) -> None:
    """Give a fresh model the weights of the version that it starts from; what that has not (adapters) stays as it is."""
    from recstill.recipes.registered import start_weights

    if part := run.recipe.part(role).start_from:
        state, own = start_weights(run, role), portable_state(model)
        if beyond := [name for name, value in state.items() if name not in own or own[name].shape != value.shape]:
            raise ConfigError(f"{role}.start_from", [f"{part} has {', '.join(beyond[:3])} in another shape than this model"])
        load_portable_state(model, {**own, **{name: value.float() for name, value in state.items()}})


def train(run: Run, name: str, role: Role, seed: int, source: SignalSource | None = None) -> dict[str, Any]:
    """Train one model, store its weights under `name`, and return its history and test metrics.

    With signals the student learns from the teacher too, and then fine-tunes on labels alone if the recipe says so; without,
    the same budget of epochs goes to the labels.
    """
    part = run.recipe.part(role)
    config = part.training
    if source is not None and run.recipe.distil.freeze:
        config = config.model_copy(update={"freeze": (*config.freeze, *run.recipe.distil.freeze)})
    model = build_model(run, role, seed, config)
    begin_from(run, role, model)
    rows = training_rows(run, role, source)
    objective = make_objective(run, model, rows, source) if source is not None else None
    history = run_fit(run, name, role, model, rows, config, seed, objective)
    fine_tune = run.recipe.distil.fine_tune
    if role == "student" and fine_tune is not None and fine_tune.epochs:
        tuned = build_model(run, role, seed, fine_tune)
        load_portable_state(tuned, portable_state(model))
        history += run_fit(run, f"{name}.fine-tune", role, tuned, training_rows(run, role, None), fine_tune, seed, None)
        model = tuned
    return {"history": history, **keep(run, name, role, model), **({} if objective is None else {"ratios": objective.ratios})}


def keep(run: Run, name: str, role: Role, model: nn.Module, *, int8: bool = False) -> dict[str, Any]:
    """Store the weights of a trained model, its tables in the precision asked for, and judge it on the test split."""
    state = portable_state(model)
    if int8 or run.recipe.part(role).table_dtype == "float16":
        state = round_tables(model, state, int8=int8)
    save_weights(run, name, state)
    return {
        "metrics": judge_of(run.rows, role).test(model),
        "num_parameters": num_parameters(state),
    }


def save_weights(run: Run, name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Store weights whole."""
    path = run.weights(name)
    temporary = path.with_suffix(".new")
    save_file(dict(state), temporary)
    temporary.replace(path)


def load_trained(run: Run, name: str, role: Role) -> nn.Module:
    """Return the model that `train` stored."""
    model = build_model(run, role, 0, run.recipe.part(role).training, run.options_of(name, role))
    load_portable_state(model, load_file(run.weights(name)))
    return model.eval()


def training_rows(run: Run, role: Role, source: SignalSource | None) -> TrainingRows:
    """Return what a model trains on: fewer labels or negatives where the recipe says so, older rows again, and lists or rows
    without labels where a teacher speaks about them."""
    part, distil = run.recipe.part(role), run.recipe.distil
    rows = run.rows.training(role)
    if not isinstance(rows, TensorRows):
        from recstill.recipes.teaching import top_of

        top = top_of(source) if source is not None and run.needs_lists else None
        return rows if top is None else rows.with_lists(ListSampler(top, distil.lists.queries, distil.lists.random))
    random = np.random.default_rng(0)  # the same rows for every seed: the seeds measure training, not sampling
    kept = np.ones(len(rows), bool)
    if part.keep_negatives < 1:
        kept &= (rows.labels[run.task.spec.primary.name].numpy() != 0) | (random.random(len(rows)) < part.keep_negatives)
    labelled = random.random(len(rows)) < part.label_share
    if source is None:
        kept &= labelled
    elif not labelled.all():
        blank = torch.from_numpy(~labelled)
        rows = replace(rows, labels={name: torch.where(blank, torch.nan, values) for name, values in rows.labels.items()})
    if not kept.all():
        rows = rows.take(torch.from_numpy(np.flatnonzero(kept)))
    further = run.further_splits if source is not None else ["replay"] if role == "student" and distil.replay else []
    for split in further:
        rows = rows.joined(run.rows.tensors(role, split))
    if source is None:
        return rows
    return replace(rows, by_group=run.needs_lists)


def run_fit(
    run: Run,
    name: str,
    role: Role,
    model: nn.Module,
    rows: TrainingRows,
    config: TrainingConfig,
    seed: int,
    objective: Objective | None,
) -> list[dict[str, float]]:
    """Fit with progress, checkpoints and hooks; return the history."""
    judge = judge_of(run.rows, role, bf16=config.bf16)
    spec, warned = run.task.spec, False
    kept_epochs = run.recipe.all_teachers[role].checkpoints if role != "student" else ()
    checkpoints = Checkpoints(run.checkpoints / f"{name}.safetensors")

    def after_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        score = text_of(measure(metrics["score"]))
        run.progress.say(f"{name} epoch {epoch + 1}/{config.epochs}: loss {metrics['loss']:.4f}, validation {score}")
        if epoch + 1 in kept_epochs:
            save_weights(run, f"{name}@{epoch + 1}", portable_state(model))
        if run.watch is not None:
            run.watch(epoch, metrics["score"])
        run.platform.plugins.tell("after_epoch", run_id=run.id, stage=name, epoch=epoch, metrics=dict(metrics))

    def loss_of(output: Output, batch: Batch) -> torch.Tensor:
        nonlocal warned
        if objective is None:
            return supervised_loss(spec.labels, output, batch)
        loss = objective(output, batch)
        if not warned:
            for strategy, ratio in objective.starved.items():
                run.progress.say(
                    f"warning: {strategy} starts at {ratio:.1e} of the label loss in the first batch, so the teacher is hardly "
                    f"heard; raise its weight about {1 / ratio:,.0f}-fold, or see `recstill tune`"
                )
            warned = True
        return loss

    def terms_of(output: Output, batch: Batch) -> Mapping[str, torch.Tensor]:
        taught = {} if objective is None else objective.terms
        return {**label_terms(spec.labels, output, batch), **taught}

    history = fit(
        model,
        rows,
        loss_of,
        config,
        name=name,
        terms_of=terms_of,
        seed=seed,
        evaluate=lambda current: {"score": judge.validate(current)},
        checkpoints=checkpoints,
        extra=objective.parts if objective is not None and len(objective.parts) else None,
        before_step=objective.at if objective is not None else lambda *_: None,
        progress=run.progress.steps,
        after_epoch=after_epoch,
    )
    if history.epochs and history.is_newest_best:
        history.epochs[-1][LAST_IS_BEST] = 1.0
        if run.watch is None:  # a search says which of its trials was best
            run.progress.say(f"warning: the last epoch of {name} was its best; more epochs (now {config.epochs}) may help")
    run.earlier_cpu_seconds += checkpoints.earlier_cpu_seconds
    return history.epochs


def make_objective(run: Run, model: nn.Module, rows: TrainingRows, source: SignalSource) -> Objective:
    """Attach the recipe's strategies to a student that trains on these rows."""
    probe = rows.batch(torch.arange(min(4, len(rows))))
    generator = torch.get_rng_state()  # drawing the probe's negatives must not change what training draws
    with torch.no_grad():
        output, taught = model.eval()(probe), source.of(probe)
    torch.set_rng_state(generator)
    config = run.recipe.student.training
    forward: Callable[[Batch], Output] = DenseForward(model, config.bf16 and has_fast_bf16(rows.device))
    tables = [module for module in model.modules() if isinstance(module, TrainingTables)]
    context = StrategyContext(
        labels=run.task.spec.labels,
        student_hidden=hidden_widths(output),
        teacher_hidden={name: int(value.shape[-1]) for name, value in taught.hidden.items()},
        student_attention=attention_shapes(output),
        teacher_attention={name: tuple(value.shape[1:]) for name, value in taught.attention.items()},
        num_rows=run.snapshot.meta["num_rows"],
        num_teachers=1 + len(taught.others),
        sampling_rate=run.recipe.student.keep_negatives,
        student=StudentRunner(forward, tables, run.rows.transform("student").slots),
    )
    strategies = [
        Weighted(part.name, build_strategy(run.platform, part), part.weight_value) for part in run.recipe.distil.strategies
    ]

    def supervised(output: Output, batch: Batch) -> torch.Tensor:
        return supervised_loss(run.task.spec.labels, output, batch)

    return Objective(supervised, strategies, context, source.of, run.recipe.distil.label_weight)
