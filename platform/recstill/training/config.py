"""How long and how fast to train."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """Options of one training stage. `l2` decays the dense weights (AdamW), `table_l2` the table rows seen.

    validate_every: epochs between two looks at the validation split; `patience` counts looks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(3, ge=0, le=1000)
    batch_size: int = Field(4096, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    table_learning_rate: float = Field(0.1, gt=0)
    l2: float = Field(1e-6, ge=0)
    table_l2: float = Field(0.0, ge=0)
    table_optimizer: Literal["rowwise-adagrad", "adam"] = "rowwise-adagrad"
    table_init_std: float | None = Field(None, gt=0, description="start tables from N(0, std²) instead of the library's own")
    freeze: tuple[str, ...] = Field(
        (), description="modules by name, such as `tables` or `body.*`, that this stage leaves alone"
    )
    warmup_steps: int = Field(50, ge=0)
    decay: Literal["none", "linear", "cosine"] = Field("none", description="of the dense rate, to zero at the last step")
    bf16: bool = Field(True, description="autocast the dense part to bfloat16 where the processor has it")
    patience: int = Field(1, ge=1, description="stop after this many looks without a better validation metric")
    validate_every: int = Field(1, ge=1)
    checkpoint_steps: int = Field(500, ge=1)
