"""Risk scoring: tree teachers, an additive student with reasons, a fairness gate, and the tasks `credit` and `fraud`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import ColumnTeacher, Dataset, Gate, Model, Task


@hookimpl
def register_datasets() -> Mapping[str, Dataset]:
    from recstill_risk.credit import TaiwanCredit
    from recstill_risk.fraud import IeeeCis

    return {"taiwan-credit": TaiwanCredit(), "ieee-cis-fraud": IeeeCis()}


@hookimpl
def register_tasks() -> Mapping[str, Task]:
    from recstill_risk.credit import CreditTask
    from recstill_risk.fraud import FraudTask

    return {"credit": CreditTask(), "fraud": FraudTask()}


@hookimpl
def register_teachers() -> Mapping[str, type[Model | ColumnTeacher]]:
    from recstill_risk.trees import ForestTeacher, LightGBMTeacher

    return {"lightgbm": LightGBMTeacher, "forest": ForestTeacher}


@hookimpl
def register_students() -> Mapping[str, type[Model]]:
    from recstill_risk.additive import AdditiveStudent

    return {"additive": AdditiveStudent}


@hookimpl
def register_gates() -> Mapping[str, Gate]:
    from recstill_risk.fairness import fairness

    return {"fairness": fairness}


@hookimpl
def register_recipes() -> Mapping[str, Path]:
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in folder.glob("*.yaml")}
