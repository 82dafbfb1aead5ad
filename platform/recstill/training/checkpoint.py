"""Checkpoints: safetensors and JSON, written whole."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recstill.embeddings.tables import FusedTables

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.training.loop import History


class Checkpoints:
    """The checkpoint of one training stage, in one file: a rename replaces the older one, so a kill leaves one of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier_cpu_seconds = 0.0  # what earlier attempts spent until the checkpoint that was loaded
        self._started = time.process_time()

    def save(
        self,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        history: History,
        best: dict[str, Tensor],
        step: int,
        loss_sum: float,
    ) -> None:
        """Write everything that the rest of the training depends on."""
        tensors = {f"model.{name}": value for name, value in trained.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        tensors |= {f"table.{name}": value for name, value in _table_state(trained).items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"dense.{index}.{name}": value for name, value in state.items()}
        tensors["random"] = torch.get_rng_state()
        progress = {
            "step": step,
            "loss_sum": loss_sum.hex(),
            "epochs": history.epochs,
            "best_epoch": history.best_epoch,
            "best_score": history.best_score,
            "cpu_seconds": self.earlier_cpu_seconds + time.process_time() - self._started,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        owned = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        save_file(owned, temporary, metadata={"progress": json.dumps(progress)})
        temporary.replace(self.path)

    def load(
        self, trained: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[History, dict[str, Tensor], int, float] | None:
        """Restore the newest checkpoint into the model and the optimizers; None when there is none."""
        from recstill.training.loop import History

        if not self.path.is_file():
            return None
        with safe_open(self.path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        self.earlier_cpu_seconds = float(progress.get("cpu_seconds", 0.0))
        trained.load_state_dict(_below(tensors, "model."))
        current = _table_state(trained)
        for name, value in _below(tensors, "table.").items():
            current[name].copy_(value)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(tensors, "dense.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        history = History(progress["epochs"], progress["best_epoch"], progress["best_score"])
        return history, _below(tensors, "best."), progress["step"], float.fromhex(progress["loss_sum"])


def _table_state(trained: nn.Module) -> dict[str, Tensor]:
    """The accumulators of the fused optimizers, as the live tensors."""
    found: dict[str, Tensor] = {}
    for prefix, module in trained.named_modules():
        if isinstance(module, FusedTables):
            for table, state in module.collection.fused_optimizer().state_dict()["state"].items():
                found |= {f"{prefix}|{table}|{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    return found


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
