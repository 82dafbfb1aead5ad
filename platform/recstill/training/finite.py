"""Training that meets a number which is none stops there, and says where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from recstill.api.errors import DivergedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from recstill.api.batch import Batch, Output
    from recstill.training.config import TrainingConfig


def stop_at_loss(
    name: str, place: str, terms: Mapping[str, Tensor], output: Output, batch: Batch, config: TrainingConfig
) -> DivergedError:
    """Return the error for a loss that is no finite number.

    place: the step in words. terms: the parts of the loss by name, a scalar each; the first that is not finite is named.
    """
    wrong = {term: float(value) for term, value in terms.items() if not bool(torch.isfinite(value))}
    found = "".join(f"the term {term!r} of the loss is {value}" for term, value in list(wrong.items())[:1])
    cause = _cause(next(iter(wrong), ""), output, batch, config)
    return DivergedError(name, f"{found or 'the loss is no finite number'} at {place}", cause)


def _cause(term: str, output: Output, batch: Batch, config: TrainingConfig) -> str:
    for label, target in batch.labels.items():
        if bool(torch.isinf(target).any()):
            return f"label {label!r} holds inf in this batch; see the rows of the task"
    if bool(torch.isnan(batch.dense).any()) or bool(torch.isinf(batch.dense).any()):
        return "a numeric feature of this batch is no finite number; see the rows of the task"
    broken = [label for label, logits in output.logits.items() if not bool(torch.isfinite(logits).all())]
    if broken:
        return f"the model's own output for {broken[0]!r} is not finite any more: {_slower(config)}"
    if term in batch.labels:
        largest = float(batch.labels[term].nan_to_num().abs().max())
        return f"the largest value of label {term!r} in this batch is {largest:.3g}: scale the label, or {_slower(config)}"
    if not term:
        return _slower(config)
    return f"the weight or an option of {term!r}, such as its temperature, or what the teacher said of these rows"


def stop_at_weights(name: str, place: str, model: nn.Module, config: TrainingConfig) -> None:
    """Raise DivergedError if a weight of the model is no finite number: the last step of an epoch spoils no loss."""
    for key, value in model.state_dict().items():
        # The sum is one pass without a copy; only where it is not finite must each value be looked at.
        if value.is_floating_point() and not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):
            raise DivergedError(name, f"the weights {key!r} are no finite numbers after {place}", _slower(config))


def stop_at_answers(logits: Mapping[str, Tensor]) -> None:
    """Raise DivergedError if an answer of a trained model is no finite number: the last step of all is seen by no loss."""
    for label, values in logits.items():
        if wrong := int((~torch.isfinite(values)).sum()):
            found = f"{wrong:,} of {values.numel():,} answers for {label!r} are no finite numbers"
            raise DivergedError("the model", found, "learning_rate or table_learning_rate is too high")


def _slower(config: TrainingConfig) -> str:
    return f"lower learning_rate (now {config.learning_rate:g}) or table_learning_rate (now {config.table_learning_rate:g})"
