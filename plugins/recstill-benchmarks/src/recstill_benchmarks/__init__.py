"""Public data sets on which distillation is measured, as tasks like any other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Dataset, Task


@hookimpl
def register_datasets() -> Mapping[str, Dataset]:
    from recstill_benchmarks.biased import SyntheticClicks
    from recstill_benchmarks.census import CensusIncome
    from recstill_benchmarks.citeulike import CiteULike
    from recstill_benchmarks.movielens import MovieLens

    found: list[Dataset] = [CiteULike(), CensusIncome(), MovieLens(), SyntheticClicks()]
    return {dataset.name: dataset for dataset in found}


@hookimpl
def register_tasks() -> Mapping[str, Task]:
    from recstill_benchmarks.biased import ClicksTask
    from recstill_benchmarks.census import CensusTask
    from recstill_benchmarks.citeulike import CitationsTask
    from recstill_benchmarks.movielens import FilmsTask

    return {"citations": CitationsTask(), "census": CensusTask(), "clicks": ClicksTask(), "films": FilmsTask()}


@hookimpl
def register_recipes() -> Mapping[str, Path]:
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in folder.glob("*.yaml")}
