"""The planner: what a run would do, and every conflict that shows before training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from recstill.api.batch import Output
from recstill.api.errors import ConfigError
from recstill.api.strategy import StrategyContext
from recstill.distillation.objective import StudentRunner, attention_shapes, hidden_widths
from recstill.embeddings.tables import TrainingTables
from recstill.recipes.checking import build_strategy
from recstill.recipes.columns import planned_columns, reads_columns
from recstill.recipes.training import begin_from, build_model
from recstill.training.loop import DenseForward, has_fast_bf16
from recstill.training.losses import supervised_loss
from recstill.training.parameters import freeze, thaw

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recstill.api.task import LabelSpec
    from recstill.recipes.config import ModelConfig
    from recstill.recipes.run import Run
    from recstill.training.config import TrainingConfig

_TIMED_STEPS = 4


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan. seconds and megabytes are estimates from a few real steps; NaN where none was timed."""

    name: str
    what: str
    signals: str = ""
    parameters: int = 0
    seconds: float = float("nan")
    megabytes: float = float("nan")

    def as_row(self) -> dict[str, str]:
        """Return it as people read it."""

        def about(value: float, form: str) -> str:
            return "" if math.isnan(value) else form.format(value)

        return {
            "stage": self.name,
            "what": self.what,
            "signals": self.signals,
            "parameters": f"{self.parameters:,}" if self.parameters else "",
            "about": about(self.seconds, "{:,.0f} s"),
            "memory": about(self.megabytes, "{:,.0f} MB"),
        }


def hidden_asked(run: Run) -> tuple[str, ...]:
    """Return the teacher's hidden vectors that the recipe's strategies read: their option `teacher_hidden`, one or several."""
    if run.task.spec.retrieval is not None:
        return ()  # a two-tower's vectors are always stored
    asked: dict[str, None] = {}
    for part in run.recipe.distil.strategies:
        asked |= dict.fromkeys(_names(build_strategy(run.platform, part)))
    if "*" in asked:
        return tuple(hidden_widths(_probe(run, "teacher")))
    return tuple(asked)


def check_plan(run: Run) -> None:
    """Attach every strategy to the models' real outputs. Raise ConfigError with all conflicts."""
    problems = []
    columns = [role for role in run.recipe.all_teachers if reads_columns(run.factory(role))]
    for role in columns:
        planned_columns(run, role)
        if run.recipe.distil.live:
            problems.append(
                f"distil.live: {role} {run.recipe.part(role).name!r} reads columns; it teaches through stored signals"
            )
        if run.recipe.all_teachers[role].checkpoints:
            problems.append(f"{role}.checkpoints: {run.recipe.part(role).name!r} has no epochs to keep")
        if run.task.spec.retrieval is not None:
            problems.append(f"{role}.name: a retrieval task needs a two-tower teacher")
    student, teacher = _probe(run, "student"), _probe(run, "teacher")
    for role in ("student", *(role for role in run.recipe.all_teachers if role not in columns)):
        for config in (run.recipe.part(role).training, *_more_training(run, role)):
            problems += _check_freeze(run, role, config)
    if run.recipe.prune is not None and not hasattr(run.factory("student"), "prune"):
        problems.append(f"prune: student {run.recipe.student.name!r} cannot be pruned: it has no method `prune`")
    for split in set(run.further_splits) - set(run.snapshot.split):
        problems.append(f"distil.{split}: the snapshot has no rows of split `{split}`; ask the task for some in `data`")
    if run.needs_lists and not run.task.spec.groups and run.task.spec.retrieval is None:
        problems.append(
            f"distil.strategies: they compare the rows of a group, and task {run.task.spec.name!r} has no `groups`: name the "
            "columns that tell lists apart, or take strategies that read rows one by one"
        )
    if run.further_splits and run.task.spec.retrieval is not None:
        problems.append(f"distil.{run.further_splits[0]}: a retrieval task draws its rows from the catalogue; leave it out")
    for epoch in (e for part in run.recipe.all_teachers.values() for e in part.checkpoints if e > part.training.epochs):
        problems.append(f"teacher.checkpoints: epoch {epoch} is after the last one")
    context = StrategyContext(
        labels=run.task.spec.labels,
        student_hidden=hidden_widths(student),
        teacher_hidden=hidden_widths(teacher),
        student_attention=attention_shapes(student),
        teacher_attention=attention_shapes(teacher),
        num_rows=run.snapshot.meta["num_rows"],
        num_teachers=sum(1 + len(part.checkpoints) for part in run.recipe.all_teachers.values()),
        student=StudentRunner(lambda _batch: student, [], run.rows.transform("student").slots),
    )
    for index, part in enumerate(run.recipe.distil.strategies):
        place, strategy = f"distil.strategies.{index}", build_strategy(run.platform, part)
        if "attention" in strategy.signals and not run.recipe.distil.live:
            problems.append(
                f"{place}.name: {part.name!r} reads attention, which the store does not keep; set distil.live: true"
            )
        wanted = getattr(strategy, "attribute", "") if "attributes" in strategy.signals else ""
        if wanted and wanted not in (*run.task.spec.attributes, *run.rows.made):
            problems.append(f"{place}.options.attribute: the rows have no {wanted!r}; give the recipe `rules`, or name another")
        if "committee" in strategy.signals and context.num_teachers < 2:
            problems.append(f"{place}.name: {part.name!r} needs two teachers or more: add `teachers`, or teacher.checkpoints")
        lacking = [] if run.task.spec.retrieval else [n for n in _names(strategy) if n not in ("*", *context.teacher_hidden)]
        if lacking:
            problems.append(
                f"{place}.options.teacher_hidden: teacher {run.recipe.teacher.name!r} gives no {', '.join(lacking)}; it gives "
                f"{', '.join(context.teacher_hidden) or 'no hidden vectors'}"
            )
            continue
        try:
            strategy.attach(context)
        except ValueError as error:
            problems.append(f"{place}: {part.name}: {error}")
    if problems:
        raise ConfigError(f"Recipe {run.name!r}", problems)


def plan(run: Run) -> list[PlannedStage]:
    """Return the stages of a run with estimates; a few steps of each model are timed on real rows."""
    recipe, stages = run.recipe, []
    for role, part in recipe.all_teachers.items():
        suffix = role.removeprefix("teacher")
        if part.version:
            stages.append(PlannedStage(role, f"take {part.version} from the registry"))
        elif reads_columns(run.factory(role)):
            stages.append(PlannedStage(f"pretrain{suffix}", f"{part.name}, on the raw columns of the training rows"))
            stages.append(PlannedStage(role, f"register as {part.register_as}"))
        else:
            stages.append(_timed(run, f"pretrain{suffix}", role, part))
            stages.append(PlannedStage(role, f"export, check and register as {part.register_as}"))
        if not recipe.distil.live:
            stages.append(_planned_score(run, role, suffix))
    stages += [PlannedStage(f"baseline-{name}", "fit on the teacher's features") for name in recipe.baselines]
    alone = _timed(run, "alone", "student", recipe.student)
    strategies = ", ".join(f"{part.name} x {part.weight}" for part in recipe.distil.strategies)
    needs = ", ".join(sorted(run.needs)) or "labels only"
    for seed in recipe.seeds:
        stages.append(PlannedStage(f"alone-{seed}", alone.what, "", alone.parameters, alone.seconds, alone.megabytes))
        what = f"{alone.what}; {strategies}" + ("; then fine-tune on labels" if recipe.distil.fine_tune else "")
        source = f"{'live' if recipe.distil.live else 'stored'}: {needs}"
        stages.append(PlannedStage(f"distilled-{seed}", what, source, alone.parameters, alone.seconds, alone.megabytes))
        if recipe.prune is not None:
            stages.append(
                PlannedStage(f"pruned-{seed}", f"remove {recipe.prune.share:.0%} of the hidden units, recover", source)
            )
        if recipe.quantise is not None:
            stages.append(PlannedStage(f"quantised-{seed}", "train on with weights rounded to 8 bits; int8 tables", source))
    stages.append(PlannedStage("student", f"export, check and register as {recipe.student.register_as}; report"))
    return stages


def _planned_score(run: Run, role: str, suffix: str) -> PlannedStage:
    hidden = hidden_asked(run)
    rows = sum(len(run.snapshot.rows_of(split)) for split in run.taught_splits)
    if run.task.spec.retrieval is not None:
        return PlannedStage(
            f"score{suffix}", "vectors of every query and item, and the best items of each query", "vectors, top"
        )
    widths = hidden_widths(_probe(run, role))
    columns = sum(label.num_classes if label.kind == "multiclass" else 1 for label in run.task.spec.labels)
    megabytes = rows * (8 + 4 * columns + 2 * sum(widths[name] for name in hidden)) / 1e6
    signals = ", ".join(["logits", *(f"hidden:{name}" for name in hidden)])
    return PlannedStage(f"score{suffix}", f"{rows:,} rows into the signal store", signals, megabytes=megabytes)


def _probe(run: Run, role: str) -> Output:
    """Return a model's output on a few real rows; the model is thrown away. A teacher of columns is as yet unfitted: it
    answers zeros, and the hidden vectors that its class declares."""
    if reads_columns(run.factory(role)):
        return _declared(run, role)
    rows = run.rows.tensors(role, "valid")
    with torch.no_grad():
        model = _model(run, role).eval()
        output: Output = model(rows.batch(torch.arange(min(4, len(rows)))))
    return output


def _declared(run: Run, role: str) -> Output:
    def zeros(label: LabelSpec) -> Tensor:
        return torch.zeros(2, label.num_classes) if label.kind == "multiclass" else torch.zeros(2)

    widths = planned_columns(run, role)
    return Output(
        {label.name: zeros(label) for label in run.task.spec.labels},
        {name: torch.zeros(2, width) for name, width in widths.items()},
    )


def _model(run: Run, role: str) -> nn.Module:
    if role != "student" and run.recipe.all_teachers[role].version:
        from recstill.recipes.registered import fetch_teacher

        fetch_teacher(run, role)
    model = build_model(run, role, 0, run.recipe.part(role).training)
    begin_from(run, role, model)
    return model


def _timed(run: Run, name: str, role: str, part: ModelConfig) -> PlannedStage:
    config, model = part.training, _model(run, role).train()
    rows = run.rows.training(role)
    forward = DenseForward(model, config.bf16 and has_fast_bf16(rows.device))
    seconds = []
    for _ in range(_TIMED_STEPS):
        places = torch.randint(0, len(rows), (min(config.batch_size, len(rows)),))
        started = time.perf_counter()
        batch = rows.batch(places)
        supervised_loss(run.task.spec.labels, forward(batch), batch).backward()
        seconds.append(time.perf_counter() - started)
    steps = config.epochs * -(-len(rows) // config.batch_size)
    parameters = sum(p.numel() for p in model.parameters())
    held = sum(p.numel() * p.element_size() for m in model.modules() if isinstance(m, TrainingTables) for p in m.parameters())
    megabytes = (held + 12 * parameters + run.rows.tensors(role, "train").dense.nbytes) / 1e6
    what = f"{part.name}, {config.epochs} epochs of {len(rows):,} rows, batches of {config.batch_size:,}"
    if config.freeze:
        what += f", frozen: {', '.join(config.freeze)}"
    return PlannedStage(name, what, "", parameters, steps * min(seconds), megabytes)


def _more_training(run: Run, role: str) -> list[TrainingConfig]:
    distil, config = run.recipe.distil, run.recipe.student.training
    if role != "student":
        return []
    frozen = [config.model_copy(update={"freeze": distil.freeze})] if distil.freeze else []
    return frozen + ([distil.fine_tune] if distil.fine_tune else [])


def _check_freeze(run: Run, role: str, config: TrainingConfig) -> list[str]:
    if not config.freeze:
        return []
    try:
        thaw(freeze(_model(run, role), config.freeze))
    except ValueError as error:
        return [f"{role}: {error}"]
    return []


def _names(strategy: Any) -> list[str]:
    if "hidden" not in strategy.signals:
        return []
    names = getattr(strategy, "teacher_hidden", "backbone")
    return [names] if isinstance(names, str) else list(names)
