"""The ads task: will this household buy this product this week, at a discount, and for how much?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Baseline, Dataset, Task


@hookimpl
def register_datasets() -> Mapping[str, Dataset]:
    from recstill_commerce.dataset import CompleteJourney

    return {"complete-journey": CompleteJourney()}


@hookimpl
def register_tasks() -> Mapping[str, Task]:
    from recstill_commerce.task import AdsTask

    return {"ads": AdsTask()}


@hookimpl
def register_baselines() -> Mapping[str, Baseline]:
    from recstill_commerce.baselines import lightgbm_baseline, popularity_baseline

    return {"lightgbm": lightgbm_baseline, "popularity": popularity_baseline}


@hookimpl
def register_recipes() -> Mapping[str, Path]:
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in folder.glob("*.yaml")}
