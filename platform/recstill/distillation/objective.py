"""The loss of a distil stage: the labels, plus a weighted list of strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from recstill.api.batch import Batch, Output, Signals

if TYPE_CHECKING:
    from recstill.api.strategy import DistillationLoss, Strategy, StrategyContext

SupervisedLoss = Callable[[Output, Batch], Tensor]
SignalsOf = Callable[[Batch], Signals]


@dataclass(frozen=True)
class Weighted:
    """A strategy of a recipe, by name, with its weight."""

    name: str
    strategy: Strategy
    weight: float


class Objective:
    """Call it with a student's output and the batch. `parts` holds what the strategies train beside the student."""

    def __init__(
        self,
        supervised: SupervisedLoss,
        strategies: Sequence[Weighted],
        context: StrategyContext,
        signals_of: SignalsOf,
    ) -> None:
        self.supervised, self.signals_of = supervised, signals_of
        self._losses: list[tuple[float, DistillationLoss]] = [(w.weight, w.strategy.attach(context)) for w in strategies]
        self.parts = nn.ModuleList([loss for _, loss in self._losses if isinstance(loss, nn.Module)])

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        total = self.supervised(output, batch)
        signals = self.signals_of(batch)
        for weight, loss in self._losses:
            total = total + weight * loss(output, signals, batch)
        return total


def hidden_widths(output: Output) -> dict[str, int]:
    """Return the width of each hidden vector of a model, from its output on any batch."""
    return {name: int(value.shape[-1]) for name, value in output.hidden.items()}
