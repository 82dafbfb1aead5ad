"""Integrated gradients as a graph of its own: reasons for any student, without torch where it is served."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from recstill.api.batch import Batch
from recstill.api.errors import PluginError
from recstill.data.bundle import ATTRIBUTION
from recstill.embeddings.tables import ConcatenatedTables
from recstill.export.graph import Joined, Layout, large_tensors, refer, sample_inputs, store_tensors, to_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from recstill.api.models import Slot

STEPS = 32
_CHUNK = 16_384


@dataclass(frozen=True)
class Baseline:
    """What a row is compared with: dense columns (D,) and looked-up vectors (P, dim) of the mean training row. Where a model
    keeps the positions of sequences apart the vectors are zero: a history is compared with none."""

    dense: Tensor
    vectors: Tensor

    @torch.no_grad()
    def logit(self, model: nn.Module, label: str) -> float:
        """Return what an exporting model says of it."""
        tables = tables_of(model)
        present = torch.ones(1, len(self.vectors)) if tables is None or not tables.expand else torch.zeros(1, len(self.vectors))
        with _answering(tables, self.vectors.unsqueeze(0), present):
            said: Tensor = model(_looked_up(self.dense.unsqueeze(0))).logits[label]
        return float(said)


@torch.no_grad()
def mean_row(model: nn.Module, dense: Tensor, ids: Tensor) -> Baseline:
    """Return the baseline of an exporting model over training rows: dense (N, D), ids (N, sum of slot widths)."""
    tables = tables_of(model)
    if tables is None:
        return Baseline(dense.double().mean(0).float(), torch.zeros(0, 1))
    total = torch.stack([tables(part.long()).double().sum(0) for part in ids.split(_CHUNK)]).sum(0)
    return Baseline(dense.double().mean(0).float(), (total / len(ids)).float() * (not tables.expand))


class AttributionGraph(nn.Module):
    """Integrated gradients (Sundararajan et al., 2017, Axiomatic attribution for deep networks) of one label's logit z, from a
    baseline x' to the row x, along `steps` midpoints: a_i = (x_i - x'_i) * mean_k dz/dx_i at x' + (k + 1/2) / steps (x - x').

    x are dense columns and looked-up vectors. inputs: as `Joined`. output: (N, F), the columns and vectors of each feature
    summed. A row's values sum to z(x) - z(x') up to the error of the midpoint rule.
    """

    def __init__(
        self, model: nn.Module, layout: Layout, label: str, baseline: Baseline, columns: Sequence[int], slots: Sequence[int],
        steps: int = STEPS,
    ) -> None:  # fmt: skip
        """columns, slots: the feature's place of each dense column, and of each of the looked-up vectors."""
        super().__init__()
        self.model, self.label, self.steps, self.joined = model, label, steps, Joined(layout)
        num_features = max([*columns, *slots]) + 1
        constants = {
            "dense_base": baseline.dense, "vector_base": baseline.vectors, "along": (torch.arange(steps) + 0.5) / steps,
            "of_columns": _assignment(columns, num_features), "of_slots": _assignment(slots, num_features),
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value)
        self.dense_base: Tensor
        self.vector_base: Tensor
        self.along: Tensor
        self.of_columns: Tensor
        self.of_slots: Tensor

    def forward(self, query_dense: Tensor, query_ids: Tensor, item_dense: Tensor, item_ids: Tensor) -> Tensor:
        dense, sparse = self.joined(query_dense, query_ids, item_dense, item_ids)
        tables = tables_of(self.model)
        ends, bases, places = [], [], []
        if dense.shape[1]:  # a table may be without numbers, or without categories: what there is none of has no way to go
            ends, bases, places = [dense], [self.dense_base], [self.of_columns]
        present = dense
        if tables is not None:
            ends, bases, places = [*ends, tables(sparse)], [*bases, self.vector_base], [*places, self.of_slots]
            present = self._repeated(tables.present(sparse))
        moves = [end - base for end, base in zip(ends, bases, strict=True)]
        no_numbers = self._repeated(dense)

        def total(*inputs: Tensor) -> Tensor:
            numbers, *vectors = inputs if dense.shape[1] else (no_numbers, *inputs)
            with _answering(tables, *vectors, present):
                logits: Tensor = self.model(_looked_up(numbers)).logits[self.label]
            return logits.sum()

        path = [self._path(end, move) for end, move in zip(ends, moves, strict=True)]
        slopes = torch.func.grad(total, argnums=tuple(range(len(path))))(*path)
        found: list[Tensor] = []
        for slope, move, place in zip(slopes, moves, places, strict=True):
            effect = self._mean(slope, move) * move
            found.append((effect.sum(2) if effect.dim() > 2 else effect) @ place)
        return found[0] if len(found) == 1 else found[0] + found[1]

    def _path(self, end: Tensor, move: Tensor) -> Tensor:
        """Return (steps * N, ...), every row at every step of its way."""
        left = (1 - self.along).view(-1, *[1] * end.dim())
        return (end.unsqueeze(0) - left * move.unsqueeze(0)).flatten(0, 1)

    def _repeated(self, values: Tensor) -> Tensor:
        return values.unsqueeze(0).expand(self.steps, *[-1] * values.dim()).flatten(0, 1)

    def _mean(self, slopes: Tensor, like: Tensor) -> Tensor:
        return slopes.view(self.steps, -1, *like.shape[1:]).mean(0)


def export_attributions(
    model: nn.Module,
    layout: Layout,
    label: str,
    baseline: Baseline,
    dense_names: Sequence[str],
    slots: Sequence[Slot],
    folder: Path,
) -> list[str]:
    """Write `attribution.onnx` beside a model's graph and return the features that it speaks of, in the order of its output.

    Tables that the model's graph has already are read from its file; what it has not lies in `attribution.safetensors`. Raise
    PluginError for a model whose gradients cannot be traced for any number of rows.
    """
    columns, places, names = feature_places(model, dense_names, slots)
    graph = AttributionGraph(model.eval(), layout, label, baseline, columns, places).eval().requires_grad_(requires_grad=False)
    arguments = sample_inputs(layout)
    # The exporter cannot follow gradients; traced to plain operators they are a graph like any other.
    traced = make_fx(graph, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments)
    try:
        proto = to_onnx(traced, arguments, ["attributions"])
    except torch.onnx.OnnxExporterError as error:
        raise PluginError(_untraceable(model)) from error
    if any(entry.name.startswith("item") and not entry.type.tensor_type.shape.dim[0].dim_param for entry in proto.graph.input):
        raise PluginError(_untraceable(model))
    large, stored = large_tensors(proto), load_file(folder / "weights.safetensors")
    known = {name: there for name, value in large.items() if (there := _same(value, stored))}
    refer(proto, folder / "weights.safetensors", known)
    if own := {name: value for name, value in large.items() if name not in known}:
        store_tensors(proto, own, folder / "attribution.safetensors")
    onnx.save(proto, folder / ATTRIBUTION)
    return names


def feature_places(
    model: nn.Module, dense_names: Sequence[str], slots: Sequence[Slot]
) -> tuple[list[int], list[int], list[str]]:
    """Return the feature's place of each dense column and of each of the looked-up vectors, and the features' names."""
    tables = tables_of(model)
    expand = tables is not None and tables.expand
    widths = [slot.width if expand and slot.kind == "sequence" else 1 for slot in slots]
    spread = [slot.name.removesuffix("#") for slot, width in zip(slots, widths, strict=True) for _ in range(width)]
    names = list(dict.fromkeys([*dense_names, *spread]))
    return [names.index(name) for name in dense_names], [names.index(name) for name in spread], names


def tables_of(model: nn.Module) -> ConcatenatedTables | None:
    """Return the tables of an exporting model. Raise PluginError if it has several."""
    found = [module for module in model.modules() if isinstance(module, ConcatenatedTables)]
    if len(found) > 1:
        raise PluginError(f"{type(model).__name__} gives no reasons: it calls `inputs.tables` {len(found)} times, not once.")
    return found[0] if found else None


def _looked_up(dense: Tensor) -> Batch:
    """Return a batch whose tables answer with what is given to them; a model without tables reads no ids."""
    return Batch(dense=dense, sparse=dense[:, :0].long())


@contextlib.contextmanager
def _answering(tables: ConcatenatedTables | None, *answers: Tensor) -> Iterator[None]:
    """Let tables answer with given vectors and presence: gradients are with respect to what was looked up."""
    if tables is None:
        yield
        return
    vectors, present = answers
    instance = tables.__dict__
    instance["forward"], instance["present"] = lambda _: vectors, lambda _: present
    try:
        yield
    finally:
        del instance["forward"], instance["present"]


def _untraceable(model: nn.Module) -> str:
    return (
        f"{type(model).__name__} gives no reasons: its gradients cannot be exported for any number of rows. A linear layer "
        "over three axes does that; flatten its input to two (`pairs.flatten(0, 1)`)."
    )


def _assignment(places: Sequence[int], num_features: int) -> Tensor:
    matrix = torch.zeros(len(places), num_features)
    matrix[torch.arange(len(places)), torch.tensor(places, dtype=torch.long)] = 1.0
    return matrix


def _same(value: NDArray[np.generic], stored: dict[str, NDArray[np.generic]]) -> str:
    fits = (
        name for name, other in stored.items()
        if other.shape == value.shape and other.dtype == value.dtype and other.tobytes() == value.tobytes()
    )  # fmt: skip
    return next(fits, "")
