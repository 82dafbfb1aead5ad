"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from recstill.api.batch import Batch, Output
from recstill.embeddings.tables import table_penalty
from recstill.training.finite import stop_at_answers, stop_at_loss, stop_at_weights
from recstill.training.parameters import freeze, make_optimizer, thaw

if TYPE_CHECKING:
    from recstill.embeddings.batches import TensorRows
    from recstill.training.checkpoint import Checkpoints
    from recstill.training.config import TrainingConfig

LossOf = Callable[[Output, Batch], Tensor]
TermsOf = Callable[[Output, Batch], Mapping[str, Tensor]]


class TrainingRows(Protocol):
    """Rows that training draws batches from: as they lie, or made on the fly (sampled negatives)."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def order(self, generator: torch.Generator, /) -> Tensor:
        """Return the rows in the order of an epoch."""

    def batch(self, rows: Tensor, /) -> Batch:
        """Gather a batch. Random choices come from torch's global generator, whose state checkpoints keep."""


class Evaluate(Protocol):
    """Scores a model on the validation split; the metric named `score` decides, higher is better."""

    def __call__(self, model: nn.Module, /) -> Mapping[str, float]: ...


@dataclass
class History:
    """What happened, look by look at the validation split; `best_epoch` is the place in `epochs` of the best one, whose weights
    the model keeps."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_score: float = float("-inf")

    @property
    def is_stale(self) -> Callable[[int], bool]:
        return lambda patience: len(self.epochs) - 1 - self.best_epoch >= patience and self.best_epoch >= 0

    @property
    def is_newest_best(self) -> bool:
        return self.best_epoch == len(self.epochs) - 1


class DenseForward(nn.Module):
    """Run a model with its dense part in bfloat16, its tables and outputs in float32."""

    def __init__(self, model: nn.Module, bf16: bool) -> None:
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, batch: Batch) -> Output:
        with torch.autocast(batch.dense.device.type, torch.bfloat16, enabled=self.bf16):
            output: Output = self.model(batch)
        return output


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Say whether bfloat16 products are done in hardware; emulated ones are slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fit(
    model: nn.Module,
    rows: TrainingRows,
    loss_of: LossOf,
    config: TrainingConfig,
    *,
    seed: int,
    evaluate: Evaluate,
    checkpoints: Checkpoints | None = None,
    extra: nn.Module | None = None,
    before_step: Callable[[int, int], None] = lambda *_: None,
    progress: Callable[[int, int, float], None] = lambda *_: None,
    after_epoch: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
    name: str = "the model",
    terms_of: TermsOf = lambda *_: {},
) -> History:
    """Train in place and leave the weights of the best epoch in the model. Raise DivergedError at the first step whose loss,
    or after the first epoch whose weights, are no finite numbers.

    extra: parts that a strategy trains beside the model. name, terms_of: what trains, and the parts of the loss by name,
    for that error. With `checkpoints`, a killed run that is called again goes on
    where it stood and ends with the same weights as an unbroken one: the order of rows is a function of (seed, epoch),
    and the state of the random generator is part of a checkpoint.
    """
    trained = nn.ModuleList([model, extra] if extra is not None else [model])
    frozen = freeze(model, config.freeze)
    optimizer = make_optimizer(trained, config)
    forward = DenseForward(model, config.bf16 and has_fast_bf16(rows.device))
    num_steps = -(-len(rows) // config.batch_size)
    history, step, loss_sum = History(), 0, 0.0
    best: dict[str, Tensor] = {}
    torch.manual_seed(seed)
    if checkpoints is not None and (found := checkpoints.load(trained, optimizer)) is not None:
        history, best, step, loss_sum = found
    while step < num_steps * config.epochs and not history.is_stale(config.patience):
        epoch, done = divmod(step, num_steps)
        if not done and epoch % config.validate_every == 0 and history.epochs and history.is_newest_best:
            # Copied only when training goes on from the best weights: tables of 10 M rows cost as much as several steps.
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        order = rows.order(torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        model.train()
        for start in range(done * config.batch_size, len(rows), config.batch_size):
            batch = rows.batch(order[start : start + config.batch_size])
            _set_rate(optimizer, config, step, num_steps * config.epochs)
            before_step(step, num_steps * config.epochs)
            optimizer.zero_grad(set_to_none=True)
            output = forward(batch)
            loss = loss_of(output, batch) + table_penalty(model)
            if not math.isfinite(value := loss.item()):
                terms = {**terms_of(output, batch), "table_l2": torch.as_tensor(table_penalty(model))}
                place = f"step {step + 1} (batch {step % num_steps + 1} of {num_steps} in epoch {epoch + 1})"
                raise stop_at_loss(name, place, terms, output, batch, config)
            loss.backward()
            optimizer.step()
            step, loss_sum = step + 1, loss_sum + value
            progress(step, num_steps * config.epochs, value)
            if checkpoints is not None and step % config.checkpoint_steps == 0 and step % num_steps:
                checkpoints.save(trained, optimizer, history, best, step, loss_sum)
        if (epoch + 1) % config.validate_every and epoch + 1 < config.epochs:
            continue
        stop_at_weights(name, f"epoch {epoch + 1}", trained, config)
        num_epochs = epoch % config.validate_every + 1
        metrics = {"loss": loss_sum / (num_steps * num_epochs), **evaluate(model)}
        loss_sum = 0.0
        history.epochs.append(metrics)
        if metrics["score"] > history.best_score:
            history.best_epoch, history.best_score = len(history.epochs) - 1, metrics["score"]
        after_epoch(epoch, metrics)
        if checkpoints is not None:
            earlier = {} if history.is_newest_best else best
            checkpoints.save(trained, optimizer, history, earlier, step, loss_sum)
    if best and not history.is_newest_best:
        model.load_state_dict(best)
    thaw(frozen)
    model.eval()
    return history


def _set_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, num_steps: int) -> None:
    scale = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.decay == "linear":
        scale *= 1 - step / num_steps
    elif config.decay == "cosine":
        scale *= (1 + math.cos(math.pi * step / num_steps)) / 2
    for group in optimizer.param_groups:
        group["lr"] = group["full_lr"] * scale


@torch.no_grad()
def predict(model: nn.Module, rows: TensorRows, *, bf16: bool = False, batch_size: int = 16_384) -> dict[str, Tensor]:
    """Return float32 logits {label: (N,)} of all rows, in order. Raise DivergedError if one is no finite number.

    bf16: half the time where the processor has it, and logits that are off by up to 1 %: for choosing an epoch and for
    teaching, not for figures that are reported.
    """
    model.eval()
    forward = DenseForward(model, bf16 and has_fast_bf16(rows.device))
    parts: dict[str, list[Tensor]] = {}
    for batch in rows.batches(batch_size):
        for label, logits in forward(batch).logits.items():
            parts.setdefault(label, []).append(logits.float())
    logits = {label: torch.cat(values) for label, values in parts.items()}
    stop_at_answers(logits)
    return logits
