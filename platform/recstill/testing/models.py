"""What a teacher or a student must hold."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from recstill.embeddings.tables import TableOptimizer, load_portable_state, portable_state, training_inputs
from recstill.export.graph import INPUTS, Layout, ServingGraph, export_graph
from recstill.testing.results import Check, check
from recstill.testing.samples import (
    LABELS,
    NAMES,
    QUERY,
    SLOTS,
    inputs_for_export,
    inputs_for_training,
    sample_batch,
    sample_rows,
)
from recstill.training.config import TrainingConfig
from recstill.training.loop import fit
from recstill.training.losses import supervised_loss

if TYPE_CHECKING:
    from recstill.api.batch import Output

# The columns of `samples.SLOTS`: the user and the sequence belong to the query, the rest to the item.
_LAYOUT = Layout(query_dense=[1, 4], query_slots=[0, 2, 3, 4], item_dense=[0, 2, 3, 5], item_slots=[1, 5, 6, 7, 8, 9])
_PARITY = 1e-5


def check_student(factory: Any, *, name: str = "", **options: Any) -> list[Check]:
    """Check a student class: shapes, gradients, determinism, training, save and load, export parity."""
    return _checks(factory, name or f"student {factory.__name__}", options)


def check_teacher(factory: Any, *, name: str = "", **options: Any) -> list[Check]:
    """Check a teacher class: as a student, since a teacher's graph is exported too."""
    return _checks(factory, name or f"teacher {factory.__name__}", options)


def _checks(factory: Any, subject: str, options: dict[str, Any]) -> list[Check]:
    def build(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model: nn.Module = factory(inputs_for_training(), **options)
        return model

    rules = {
        "answers every label with the right shape": lambda: answers_labels(build()),
        "gradients reach every parameter": lambda: _gradients(build()),
        "same seed, same result": lambda: _deterministic(build),
        "learns": lambda: _learns(build()),
        "reads a table without categories, and one without numbers": lambda: _one_kind(factory, options),
        "saves and loads": lambda: _round_trip(build),
        "exports with the same answers": lambda: _parity(factory, options, build()),
    }
    return [check(subject, rule, work) for rule, work in rules.items()]


def answers_labels(model: nn.Module) -> str | None:
    """Say what is wrong with the answers of a model, if anything is."""
    output: Output = model.eval()(sample_batch(5))
    expected = {label.name: (5, label.num_classes) if label.kind == "multiclass" else (5,) for label in LABELS}
    found = {name: tuple(logits.shape) for name, logits in output.logits.items()}
    if found != expected:
        return f"expected {expected}, got {found}"
    flat = [name for name, hidden in output.hidden.items() if hidden.shape[0] != 5]
    return f"hidden {flat} has no row per example" if flat else None


def _gradients(model: nn.Module) -> str | None:
    batch = sample_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    supervised_loss(LABELS, model.train()(batch), batch).backward()
    tables = {name for name in before if ".collection." in name}
    still = [name for name in tables if torch.equal(before[name], model.state_dict()[name])]
    none = [name for name, p in model.named_parameters() if name not in tables and (p.grad is None or not p.grad.any())]
    return f"nothing arrives at {sorted(still + none)}" if still or none else None


def _deterministic(build: Any) -> str | None:
    first, second = build().eval()(sample_batch()), build().eval()(sample_batch())
    differ = [name for name in first.logits if not torch.equal(first.logits[name], second.logits[name])]
    return f"two builds with one seed differ in {differ}" if differ else None


def _learns(model: nn.Module) -> str | None:
    rows = sample_rows(512)
    config = TrainingConfig(epochs=8, batch_size=64, bf16=False, warmup_steps=0, learning_rate=0.01, patience=100)
    history = fit(model, rows, lambda o, b: supervised_loss(LABELS, o, b), config, seed=0, evaluate=lambda _: {"score": 0.0})
    first, last = history.epochs[0]["loss"], history.epochs[-1]["loss"]
    return None if last < first else f"the loss went from {first:.4f} to {last:.4f} in 8 epochs"


def _one_kind(factory: Any, options: dict[str, Any]) -> str | None:
    """A model may refuse such a table with a ValueError that says why; it may not break on it."""
    for names, slots in ((NAMES, ()), ((), SLOTS)):
        rows = sample_rows(16, names=names, slots=slots)
        query = (tuple(place for place in QUERY[0] if names), tuple(place for place in QUERY[1] if slots))
        inputs = training_inputs(len(names), slots, LABELS, TableOptimizer(), query=query, dense_names=names)
        try:
            model = factory(inputs, **options)
        except ValueError as error:
            if not str(error):
                raise
            continue
        batch = rows.batch(torch.arange(16))
        loss = supervised_loss(LABELS, model.train()(batch), batch)
        loss.backward()
        if not torch.isfinite(loss):
            return f"its loss is {loss.item()} without {'categories' if names else 'numbers'}"
    return None


def _round_trip(build: Any) -> str | None:
    first, second = build(0), build(1)
    with tempfile.TemporaryDirectory() as folder:
        save_file(portable_state(first), Path(folder) / "w.safetensors")
        load_portable_state(second, load_file(Path(folder) / "w.safetensors"))
    one, two = first.eval()(sample_batch()), second.eval()(sample_batch())
    differ = [name for name in one.logits if not torch.equal(one.logits[name], two.logits[name])]
    return f"a reloaded model differs in {differ}" if differ else None


def _parity(factory: Any, options: dict[str, Any], trained: nn.Module) -> str | None:
    model = factory(inputs_for_export(), **options)
    load_portable_state(model, portable_state(trained))
    rows = sample_rows(9)
    dense, ids = rows.dense, rows.ids.long()
    parts = (
        dense[:1, _LAYOUT.query_dense], ids[:1, _LAYOUT.query_slots],
        dense[:, _LAYOUT.item_dense], ids[:, _LAYOUT.item_slots],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        export_graph(model, _LAYOUT, LABELS, Path(folder))
        session = ort.InferenceSession(Path(folder) / "model.onnx", providers=["CPUExecutionProvider"])
        answered = session.run(None, {name: part.numpy() for name, part in zip(INPUTS, parts, strict=True)})
        expected = ServingGraph(model.eval(), _LAYOUT, LABELS)(*parts)
    worst = max(float(np.abs(got - want.numpy()).max()) for got, want in zip(answered, expected, strict=True))
    return f"ONNX and torch differ by {worst:.1e} (limit {_PARITY:.0e})" if worst >= _PARITY else None
