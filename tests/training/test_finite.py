"""A loss or weights that are no numbers stop training where they come up, with the term and the likely cause."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api import DivergedError, StrategyContext
from recstill.distillation.objective import Objective, Weighted
from recstill.embeddings.batches import TensorRows
from recstill.testing.samples import LABELS, inputs_for_training, sample_rows, sample_signals
from recstill.training.config import TrainingConfig
from recstill.training.loop import fit, predict
from recstill.training.losses import label_terms, supervised_loss
from recstill_rankers.mlp import SmallMLP
from recstill_strategies.logit import SoftTarget

CONFIG = TrainingConfig(epochs=2, batch_size=16, bf16=False, warmup_steps=0, patience=10)
CONTEXT = StrategyContext(LABELS, {"backbone": 32}, {"backbone": 32})


def learn(rows: TensorRows, config: TrainingConfig = CONFIG, objective: Objective | None = None) -> None:
    torch.manual_seed(0)
    fit(
        SmallMLP(inputs_for_training()), rows, objective or (lambda o, b: supervised_loss(LABELS, o, b)), config, seed=0,
        evaluate=lambda model: {"score": 0.0}, name="alone-0",
        terms_of=lambda o, b: {**label_terms(LABELS, o, b), **({} if objective is None else objective.terms)},
    )  # fmt: skip


@given(row=st.integers(0, 63), label=st.sampled_from(["click", "amount"]))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_an_infinite_label_is_named_with_its_step(row: int, label: str) -> None:
    rows = sample_rows(64)
    rows.labels[label][row] = torch.inf
    with pytest.raises(
        DivergedError, match=rf"^alone-0: the term '{label}' of the loss is (inf|nan|-inf) at step [1-4] \(batch"
    ) as e:
        learn(rows)
    assert f"label {label!r} holds inf" in str(e.value)


@given(exponent=st.integers(22, 36))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_a_rate_that_is_too_high_is_named_as_the_cause(exponent: int) -> None:
    with pytest.raises(DivergedError, match="lower learning_rate"):
        learn(sample_rows(64), CONFIG.model_copy(update={"learning_rate": 10.0**exponent, "epochs": 40}))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_strategy_whose_term_is_not_finite_is_named(weight: float) -> None:
    objective = Objective(
        lambda o, b: supervised_loss(LABELS, o, b), [Weighted("soft-target", SoftTarget(), weight)], CONTEXT,
        lambda b: sample_signals(len(b.dense)),
    )  # fmt: skip
    with pytest.raises(
        DivergedError, match=r"the term 'soft-target' of the loss is \S+ at step 1 .* the weight or an option of"
    ):
        learn(sample_rows(64), objective=objective)


def test_weights_that_the_last_step_spoiled_are_found() -> None:
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 64, "learning_rate": 1e39})
    with pytest.raises(DivergedError, match="the weights .* are no finite numbers after epoch 1"):
        learn(sample_rows(64), config)


def test_answers_that_are_no_numbers_are_refused() -> None:
    rows = sample_rows(8)
    model = SmallMLP(inputs_for_training())
    assert set(predict(model, rows)) == {label.name for label in LABELS}
    with pytest.raises(DivergedError, match="1 of 8 answers for 'click' are no finite numbers"):
        predict(model, replace(rows, dense=rows.dense.index_fill(0, torch.tensor([3]), torch.nan)))
