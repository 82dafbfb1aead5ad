"""Integrated gradients as a graph: Captum's own values, whole scores, the same answer twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from recstill.api.batch import Batch, Output
from recstill.api.errors import PluginError
from recstill.data.bundle import ATTRIBUTION
from recstill.export.attribution import STEPS, export_attributions, feature_places, mean_row, tables_of
from recstill.export.graph import INPUTS, Layout, export_graph
from recstill.testing.samples import LABELS, NAMES, SLOTS, inputs_for_export, sample_rows
from recstill_rankers.autoint import AutoInt
from recstill_rankers.din import SmallDIN
from recstill_rankers.dlrm import SmallDLRM
from recstill_rankers.mlp import SmallMLP

LAYOUT = Layout(query_dense=[1, 4], query_slots=[0, 2, 3, 4], item_dense=[0, 2, 3, 5], item_slots=[1, 5, 6, 7, 8, 9])
STUDENTS = [SmallMLP, SmallDLRM, SmallDIN, AutoInt]


def built(factory: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return factory(inputs_for_export()).eval()


def explained(model: nn.Module, folder: Path, num_rows: int = 9) -> tuple[np.ndarray, list[str]]:
    """What the exported graph says of the sample rows."""
    rows = sample_rows(64)
    baseline = mean_row(model, rows.dense, rows.ids)
    export_graph(model, LAYOUT, LABELS, folder)
    names = export_attributions(model, LAYOUT, "click", baseline, NAMES, SLOTS, folder)
    session = ort.InferenceSession(folder / ATTRIBUTION, providers=["CPUExecutionProvider"])
    dense, ids = rows.dense[:num_rows], rows.ids[:num_rows].long()
    parts = (
        dense[:1, LAYOUT.query_dense], ids[:1, LAYOUT.query_slots], dense[:, LAYOUT.item_dense], ids[:, LAYOUT.item_slots],
    )  # fmt: skip
    feed = {name: part.numpy() for name, part in zip(INPUTS, parts, strict=True)}
    asked = {entry.name for entry in session.get_inputs()}
    return session.run(None, {name: value for name, value in feed.items() if name in asked})[0], names


def asked_of(num_rows: int = 9) -> tuple[Tensor, Tensor]:
    """The rows that `explained` explains: their query's part is that of the first one."""
    rows = sample_rows(64)
    dense, ids = rows.dense[:num_rows].clone(), rows.ids[:num_rows].long().clone()
    dense[:, LAYOUT.query_dense] = dense[:1, LAYOUT.query_dense]
    ids[:, LAYOUT.query_slots] = ids[:1, LAYOUT.query_slots]
    return dense, ids


def by_captum(model: nn.Module) -> np.ndarray:
    """The same question, put to Captum: gradients with respect to dense columns and looked-up vectors."""
    rows, (dense, ids) = sample_rows(64), asked_of()
    tables = tables_of(model)
    assert tables is not None
    baseline, present = mean_row(model, rows.dense, rows.ids), tables.present(ids)
    with torch.no_grad():
        vectors = tables(ids)

    def logit(dense: Tensor, vectors: Tensor, present: Tensor) -> Tensor:
        tables.present = lambda _: present
        handle = tables.register_forward_hook(lambda *_: vectors)
        try:
            return model(Batch(dense=dense, sparse=torch.zeros(len(dense), ids.shape[1], dtype=torch.long))).logits["click"]
        finally:
            handle.remove()
            del tables.present

    ends, starts = (dense, vectors), (baseline.dense.unsqueeze(0), baseline.vectors.unsqueeze(0))
    method = {"n_steps": STEPS, "method": "riemann_middle"}
    effects = IntegratedGradients(logit).attribute(ends, starts, additional_forward_args=present, **method)
    columns, slots, names = feature_places(model, NAMES, SLOTS)
    found = np.zeros((len(dense), len(names)))
    np.add.at(found.T, columns, effects[0].detach().numpy().T)
    np.add.at(found.T, slots, effects[1].sum(2).detach().numpy().T)
    return found


@pytest.mark.parametrize("factory", STUDENTS)
def test_the_graph_says_what_captum_says_and_a_row_adds_up(factory: type[nn.Module], tmp_path: Path) -> None:
    model, rows, (dense, ids) = built(factory), sample_rows(64), asked_of()
    found, names = explained(model, tmp_path)
    assert names == ["price", "age", "user", "item", "seen", "brand", "words"]
    assert np.abs(found).max() > 1e-3
    assert np.allclose(found, by_captum(model), atol=1e-5)
    with torch.no_grad():
        logits = model(Batch(dense=dense, sparse=ids)).logits["click"].numpy()
    start = mean_row(model, rows.dense, rows.ids).logit(model, "click")
    if factory is not SmallDIN:  # its attention is masked by what is there, and nothing is there in the mean row
        assert np.abs(found.sum(1) - (logits - start)).max() < 0.02


def test_the_tables_are_stored_once(tmp_path: Path) -> None:
    model = built(SmallMLP)
    model.tables.embedding = nn.Embedding(50_000, 4)
    explained(model, tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_size > 800_000
    assert (tmp_path / "attribution.safetensors").stat().st_size < 100_000  # bodies, turned for the way back


class ThreeAxes(SmallMLP):
    """A student whose gradients cannot be traced for any number of rows."""

    def forward(self, batch: Batch) -> Output:
        said = super().forward(batch)
        several = self.heads.linear(said.hidden["backbone"].unsqueeze(1).expand(-1, 3, -1))
        return Output({**said.logits, "click": said.logits["click"] + several[:, :, 0].sum(1)}, said.hidden)


def test_a_student_that_keeps_the_number_of_rows_it_was_traced_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="flatten"):
        explained(built(ThreeAxes), tmp_path)
    assert not (tmp_path / ATTRIBUTION).exists()
