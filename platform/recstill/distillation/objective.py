"""The loss of a distil stage: the labels, plus a weighted list of strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from recstill.api.batch import Batch, Output, Signals
from recstill.api.strategy import Schedule, value_at
from recstill.embeddings.batches import thinned

if TYPE_CHECKING:
    from recstill.api.models import Slot
    from recstill.api.strategy import DistillationLoss, OnEmbeddings, OnSequence, Strategy, StrategyContext

SupervisedLoss = Callable[[Output, Batch], Tensor]
SignalsOf = Callable[[Batch], Signals]
STARVED = 0.01


@dataclass(frozen=True)
class Weighted:
    """A strategy of a recipe, by name, with its weight."""

    name: str
    strategy: Strategy
    weight: float | Schedule


class Objective:
    """Call it with a student's output and the batch. `parts` holds what the strategies train beside the student.

    ratios: {strategy: its weighted loss over the label loss} of the first batch. A term that starts a hundred times below
    the labels teaches nothing: `starved` names those. terms: {strategy: its weighted loss} of the last batch.
    """

    def __init__(
        self,
        supervised: SupervisedLoss,
        strategies: Sequence[Weighted],
        context: StrategyContext,
        signals_of: SignalsOf,
        label_weight: float = 1.0,
    ) -> None:
        self.supervised, self.signals_of, self.label_weight = supervised, signals_of, label_weight
        self._share = 0.0
        context = replace(context, progress=lambda: self._share)
        names = [weighted.name for weighted in strategies]
        self._losses: list[tuple[str, float | Schedule, DistillationLoss]] = [
            (_own_name(names, place), weighted.weight, weighted.strategy.attach(context))
            for place, weighted in enumerate(strategies)
        ]
        self.parts = nn.ModuleList([loss for _, _, loss in self._losses if isinstance(loss, nn.Module)])
        self.ratios: dict[str, float] = {}
        self.terms: dict[str, Tensor] = {}

    def at(self, step: int, num_steps: int) -> None:
        """Say which step comes; schedules read it."""
        self._share = step / max(num_steps, 1)

    def __call__(self, output: Output, batch: Batch) -> Tensor:
        labels = self.supervised(output, batch)
        total = self.label_weight * labels
        signals = self.signals_of(batch)
        for name, weight, loss in self._losses:
            term = value_at(weight, self._share) * loss(output, signals, batch)
            if name not in self.ratios:
                self.ratios[name] = float(term.detach()) / max(float(labels.detach()), 1e-12)
            self.terms[name] = term.detach()
            total = total + term
        return total

    @property
    def starved(self) -> dict[str, float]:
        """Strategies whose first term was a hundred times below the label loss, with the ratio."""
        return {name: ratio for name, ratio in self.ratios.items() if 0 < ratio < STARVED}


def _own_name(names: Sequence[str], place: int) -> str:
    """A strategy may stand in a recipe more than once; its later places are told apart."""
    count = names[: place + 1].count(names[place])
    return names[place] if count == 1 else f"{names[place]} ({count})"


class StudentRunner:
    """Runs a student again for a strategy, with its looked-up vectors or its sequences changed on the way."""

    def __init__(self, forward: Callable[[Batch], Output], tables: Sequence[nn.Module], slots: tuple[Slot, ...] = ()) -> None:
        self.forward, self.tables, self.slots = forward, tables, slots

    def __call__(
        self, batch: Batch, on_embeddings: OnEmbeddings | None = None, on_sequence: OnSequence | None = None
    ) -> Output:
        handles = []
        if on_sequence is not None:
            batch = replace(batch, sparse=thinned(batch.sparse, self.slots, on_sequence))
        if on_embeddings is not None:
            handles = [table.register_forward_hook(lambda _module, _args, out: on_embeddings(out)) for table in self.tables]
        try:
            return self.forward(batch)
        finally:
            for handle in handles:
                handle.remove()


def hidden_widths(output: Output) -> dict[str, int]:
    """Return the width of each hidden vector of a model, from its output on any batch."""
    return {name: int(value.shape[-1]) for name, value in output.hidden.items()}


def attention_shapes(output: Output) -> dict[str, tuple[int, ...]]:
    """Return the shape of each attention map of one row."""
    return {name: tuple(value.shape[1:]) for name, value in output.attention.items()}
