"""Every hook of recstill: the one file that a plugin author must read.

A plugin is a distribution with an entry point in group `recstill` that names a module with functions marked `@hookimpl`.
`register_<kind>` offers things under the names that recipes and commands use; the others listen. Import heavy libraries
inside the functions: entry points load on every command. pluggy passes arguments by name and never passes one that has a
default in your signature, so defaults are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from recstill.api.baseline import Baseline
    from recstill.api.columns import ColumnTeacher
    from recstill.api.gates import Gate
    from recstill.api.models import Model
    from recstill.api.strategy import Strategy
    from recstill.api.task import Dataset, Task

PROJECT = "recstill"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_datasets() -> Mapping[str, Dataset]:
    """Offer data sets for `recstill data fetch`."""


@hookspec
def register_tasks() -> Mapping[str, Task]:
    """Offer tasks: labels, features, and how training rows are made."""


@hookspec
def register_teachers() -> Mapping[str, type[Model | ColumnTeacher]]:
    """Offer teacher models, built as `Teacher(inputs, **options)`, torch modules or readers of raw columns."""


@hookspec
def register_students() -> Mapping[str, type[Model]]:
    """Offer student models, built as `Student(inputs, **options)`; they must export to ONNX."""


@hookspec
def register_strategies() -> Mapping[str, type[Strategy]]:
    """Offer distillation strategies under the names that a recipe uses."""


@hookspec
def register_baselines() -> Mapping[str, Baseline]:
    """Offer baselines that stand beside the models in every report."""


@hookspec
def register_gates() -> Mapping[str, Gate]:
    """Offer checks that every promotion must pass."""


@hookspec
def register_recipes() -> Mapping[str, Path]:
    """Offer recipe files under the names that `recstill run` takes."""


@hookspec
def register_feature_definitions() -> Sequence[Any]:
    """Offer Feast objects (entities, views, services) that `recstill features apply` adds to the feature repository's."""


@hookspec
def before_stage(run_id: str, stage: str) -> None:
    """Listen to a stage that is about to start. A stage that a resumed run skips is not announced."""


@hookspec
def after_stage(run_id: str, stage: str, seconds: float) -> None:
    """Listen to a finished stage, after its results were stored."""


@hookspec
def after_epoch(run_id: str, stage: str, epoch: int, metrics: Mapping[str, float]) -> None:
    """Listen to a finished epoch. Do not change `metrics`."""


@hookspec
def after_promotion(name: str, version: int, alias: str) -> None:
    """Listen to a promotion, after it was committed."""
