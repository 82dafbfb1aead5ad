"""The words of a recipe file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recstill.training.config import TrainingConfig


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Part):
    """A teacher or a student: its name in the catalog, its feature service, its options, how it is trained.

    table_dtype: float16 rounds the tables after training, before anything is measured, and halves their bytes.
    """

    name: str
    features: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    register_as: str
    table_dtype: Literal["float32", "float16"] = "float32"


class TeacherConfig(ModelConfig):
    """`version` takes a registered teacher (`ads-teacher@champion`) instead of training one."""

    version: str = ""


class StrategyConfig(_Part):
    """One distillation loss and its weight beside the label loss."""

    name: str
    weight: float = Field(1.0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)


class DistilConfig(_Part):
    """The distil stage, and an optional fine-tune stage on labels alone that follows it."""

    strategies: tuple[StrategyConfig, ...] = Field(min_length=1)
    fine_tune: TrainingConfig | None = None


class Recipe(_Part):
    """One pipeline: pretrain a teacher, score it, distil students, compare, export, register."""

    task: str
    description: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    teacher: TeacherConfig
    student: ModelConfig
    distil: DistilConfig
    baselines: tuple[str, ...] = ()
    threads: int = Field(1, ge=1, description="torch threads; more than one makes runs irreproducible to the last bit")
