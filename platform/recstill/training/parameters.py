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


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Stop the modules whose names match from training, and return them. Raise ValueError for a pattern that matches none."""
    found: list[nn.Module] = []
    for pattern in patterns:
        named = [(name, module) for name, module in model.named_modules() if name and fnmatchcase(name, pattern)]
        if not named:
            known = sorted({name.split(".")[0] for name, _ in model.named_modules() if name})
            raise ValueError(f"freeze: no module is named {pattern!r}; the model has {known}")
        found += [module for _, module in named]
    for module in found:
        module.requires_grad_(False)
        for part in module.modules():
            if isinstance(part, TrainingTables):
                part.frozen, part.penalty = True, None
    return found


def thaw(frozen: Sequence[nn.Module]) -> None:
    """Let frozen modules train again."""
    for module in frozen:
        module.requires_grad_(True)
        for part in module.modules():
            if isinstance(part, TrainingTables):
                part.frozen = False
