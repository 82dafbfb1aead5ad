"""Which parameters train, and how fast."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from recstill.embeddings.tables import AdamTables, TrainingTables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recstill.training.config import TrainingConfig


Frozen = nn.Module | nn.Parameter


def make_optimizer(trained: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return AdamW over all that the dense optimizer owns; fused tables update in their own backward."""
    tables = {id(p) for m in trained.modules() if isinstance(m, TrainingTables) for p in m.parameters()}
    adam = {id(p): p for m in trained.modules() if isinstance(m, AdamTables) for p in m.parameters() if p.requires_grad}
    dense = [p for p in trained.parameters() if id(p) not in tables and p.requires_grad]
    # Decoupled decay would pull on every row of a table at every step: the penalty on rows seen is theirs.
    groups = [
        {"params": dense, "full_lr": config.learning_rate, "weight_decay": config.l2},
        {"params": list(adam.values()), "full_lr": config.table_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]] or groups[:1], lr=config.learning_rate, fused=True)


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[Frozen]:
    """Stop the modules or parameters whose names match from training, and return them. Raise ValueError for a pattern that
    matches none."""
    found: list[Frozen] = []
    for pattern in patterns:
        named: list[Frozen] = [module for name, module in model.named_modules() if name and fnmatchcase(name, pattern)]
        named += [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]
        if not named:
            known = sorted({name.split(".")[0] for name, _ in model.named_modules() if name})
            raise ValueError(f"freeze: no module or parameter is named {pattern!r}; the model has {known}")
        found += named
    _set_frozen(found, True)
    return found


def thaw(frozen: Sequence[Frozen]) -> None:
    """Let frozen modules and parameters train again."""
    _set_frozen(frozen, False)


def _set_frozen(things: Sequence[Frozen], frozen: bool) -> None:
    for thing in things:
        thing.requires_grad_(not frozen)
        for part in thing.modules() if isinstance(thing, nn.Module) else ():
            if isinstance(part, TrainingTables):
                part.frozen, part.penalty = frozen, None
