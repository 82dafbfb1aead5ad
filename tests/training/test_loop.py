"""The loop: resumable to the bit, tables trained by their own exact optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recstill.embeddings.tables import FusedTables, TableOptimizer, portable_state, training_inputs
from recstill.testing.samples import LABELS, NUM_DENSE, SLOTS, inputs_for_training, sample_rows
from recstill.training.checkpoint import Checkpoints
from recstill.training.config import TrainingConfig
from recstill.training.loop import fit
from recstill.training.losses import supervised_loss
from recstill_rankers.dcn import SmallDCN

CONFIG = TrainingConfig(epochs=3, batch_size=64, checkpoint_steps=2, patience=10, warmup_steps=3, bf16=False)


class KilledError(Exception):
    pass


def train(path: Path | None, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model = SmallDCN(inputs_for_training(), dropout=0.3)

    def progress(step: int, total: int, loss: float) -> None:
        if step == stop_at:
            raise KilledError

    fit(
        model, sample_rows(500), lambda o, b: supervised_loss(LABELS, o, b), CONFIG, seed=5, progress=progress,
        evaluate=lambda m: {"score": float(sum(p.sum() for p in m.parameters()))},
        checkpoints=Checkpoints(path) if path else None,
    )  # fmt: skip
    return portable_state(model)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 8, 9, 15, 23])
def test_a_training_killed_at_any_step_ends_with_the_same_weights(stop_at: int, tmp_path: Path) -> None:
    unbroken = train(None)
    with pytest.raises(KilledError):
        train(tmp_path / "c.safetensors", stop_at)
    resumed = train(tmp_path / "c.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_the_model_keeps_the_weights_of_its_best_epoch() -> None:
    model = SmallDCN(inputs_for_training())
    seen = []

    def evaluate(current: torch.nn.Module) -> dict[str, float]:
        seen.append(portable_state(current))
        return {"score": [0.1, 0.9, 0.2][len(seen) - 1]}

    history = fit(model, sample_rows(200), lambda o, b: supervised_loss(LABELS, o, b), CONFIG, seed=0, evaluate=evaluate)
    assert history.best_epoch == 1
    assert all(torch.equal(value, seen[1][name]) for name, value in portable_state(model).items())


def test_training_stops_when_validation_no_longer_improves() -> None:
    config = CONFIG.model_copy(update={"epochs": 50, "patience": 2})
    scores = iter([0.5, 0.6, 0.5, 0.4, 0.9])
    history = fit(
        SmallDCN(inputs_for_training()), sample_rows(64), lambda o, b: supervised_loss(LABELS, o, b), config, seed=0,
        evaluate=lambda _: {"score": next(scores)},
    )  # fmt: skip
    assert len(history.epochs) == 4


def test_tables_follow_row_wise_adagrad_exactly() -> None:
    optimizer = TableOptimizer(learning_rate=0.5, eps=1e-8)
    tables = training_inputs(NUM_DENSE, SLOTS, LABELS, optimizer).tables(4)
    assert isinstance(tables, FusedTables)
    weight = tables.collection.state_dict()["embedding_bags.user.weight"]
    expected, accumulated = weight.clone(), torch.zeros(len(weight))
    rows = sample_rows(40)
    for _ in range(3):
        batch = rows.batch(torch.arange(40))
        out = tables(batch.sparse)
        target = torch.arange(out.numel()).reshape(out.shape) / 100
        ((out - target) ** 2).sum().backward()
        gradient = torch.zeros_like(expected)
        place = [slot.name for slot in SLOTS].index("user")
        ids = rows.ids[:, place].long()
        gradient.index_add_(0, ids, 2 * (expected[ids] - target[:, place]))
        accumulated += (gradient**2).mean(1)
        touched = accumulated > 0
        expected[touched] -= 0.5 * gradient[touched] / (accumulated[touched].sqrt() + 1e-8).unsqueeze(1)
        assert torch.allclose(weight, expected, atol=1e-5)


def test_l2_shrinks_the_rows_seen_and_only_those() -> None:
    norms = []
    for l2 in (0.0, 10.0):
        torch.manual_seed(0)
        model = SmallDCN(training_inputs(NUM_DENSE, SLOTS, LABELS, TableOptimizer(0.05, l2=l2)))
        weight = next(m for m in model.modules() if isinstance(m, FusedTables)).collection.state_dict()[
            "embedding_bags.user.weight"
        ]
        before, rows = weight.clone(), sample_rows(20)
        fit(model, rows, lambda o, b: supervised_loss(LABELS, o, b), CONFIG, seed=0, evaluate=lambda _: {"score": 0.0})
        seen = rows.ids[:, 0].unique().long()
        unseen = torch.ones(len(weight), dtype=torch.bool)
        unseen[seen] = False
        assert torch.equal(weight[unseen], before[unseen])
        norms.append(weight[seen].norm().item())
    assert norms[1] < 0.9 * norms[0]
