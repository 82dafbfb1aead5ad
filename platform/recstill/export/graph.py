"""A trained model as an ONNX graph whose weights lie in a safetensors file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import save_file
from torch import Tensor, nn

from recstill.api.batch import Batch
from recstill.embeddings.tables import SplitIds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from recstill.api.task import LabelSpec

INPUTS = ("query_dense", "query_ids", "item_dense", "item_ids")
_OPSET = 20
_INLINE_BYTES = 1024


@dataclass(frozen=True)
class Layout:
    """Where the query's and the items' columns stand in the model's input."""

    query_dense: Sequence[int]
    query_slots: Sequence[int]
    item_dense: Sequence[int]
    item_slots: Sequence[int]


class ServingGraph(nn.Module):
    """What is exported: one query against N items, answers on the labels' own scale.

    inputs: query_dense (1, Dq), query_ids (1, Fq), item_dense (N, Di), item_ids (N, Fi). outputs: one (N,) or (N, C) per
    label: probability, expected count or value; then the primary label's terms (N, P) if the model has such, and with `vectors`
    those of query and item (N, d). Tables are read once for the query and its vectors spread over the items.
    """

    def __init__(self, model: nn.Module, layout: Layout, labels: Sequence[LabelSpec], vectors: bool = False) -> None:
        super().__init__()
        self.model, self.labels, self.vectors = model, tuple(labels), vectors
        self.primary = next(label.name for label in labels if label.primary)
        self.register_buffer("query_slots", torch.tensor(layout.query_slots, dtype=torch.long))
        self.register_buffer("item_slots", torch.tensor(layout.item_slots, dtype=torch.long))
        self.register_buffer("dense_order", torch.argsort(torch.tensor([*layout.query_dense, *layout.item_dense])))
        self.register_buffer("slot_order", torch.argsort(torch.tensor([*layout.query_slots, *layout.item_slots])))
        self.query_slots: Tensor
        self.item_slots: Tensor
        self.dense_order: Tensor
        self.slot_order: Tensor

    def forward(self, query_dense: Tensor, query_ids: Tensor, item_dense: Tensor, item_ids: Tensor) -> tuple[Tensor, ...]:
        dense = torch.cat([query_dense.expand(item_dense.shape[0], -1), item_dense], 1).index_select(1, self.dense_order)
        sparse = SplitIds(query_ids, item_ids, self.query_slots, self.item_slots, self.slot_order)
        said = self.model(Batch(dense=dense, sparse=sparse))
        found = [_served(label, said.logits[label.name]) for label in self.labels]
        if self.primary in said.parts:
            found.append(said.parts[self.primary])
        if self.vectors:
            found += [said.hidden["query"], said.hidden["item"]]
        return tuple(found)


def _served(label: LabelSpec, logits: Tensor) -> Tensor:
    if label.kind == "binary":
        return torch.sigmoid(logits)
    if label.kind == "multiclass":
        return torch.softmax(logits, 1)
    return torch.exp(logits.clamp(max=15.0)) if label.kind == "count" else logits


def export_graph(model: nn.Module, layout: Layout, labels: Sequence[LabelSpec], folder: Path, *, vectors: bool = False) -> None:
    """Write `model.onnx` and `weights.safetensors`; the graph refers to the tensors inside the safetensors file."""
    graph = ServingGraph(model.eval(), layout, labels, vectors).eval()
    num_items = 7
    arguments = (
        torch.zeros(1, len(layout.query_dense)),
        torch.zeros(1, len(layout.query_slots), dtype=torch.long),
        torch.zeros(num_items, len(layout.item_dense)),
        torch.zeros(num_items, len(layout.item_slots), dtype=torch.long),
    )
    beside = [*(["#parts"] if hasattr(model, "part_names") else []), *(["#query", "#item"] if vectors else [])]
    names = [*(label.name for label in labels), *beside]
    items = torch.export.Dim("items", min=1, max=1_000_000)
    with _quiet():
        program = torch.onnx.export(
            graph, arguments, dynamo=True, opset_version=_OPSET, input_names=list(INPUTS), verbose=False,
            output_names=names, dynamic_shapes=(None, None, {0: items}, {0: items}),
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if numpy_helper.to_array(tensor).nbytes >= _INLINE_BYTES
    }
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "weights.safetensors")
    _refer(proto, folder / "weights.safetensors", weights)
    onnx.save(proto, folder / "model.onnx")
    # Small weights stay inline in the graph; this copy of all of them is what a training process loads again.
    state = {name: value.contiguous() for name, value in model.state_dict().items() if f"model.{name}" not in weights}
    save_file({f"model.{name}": value.numpy() for name, value in state.items()}, folder / "small.safetensors")


def _refer(proto: onnx.ModelProto, file: Path, weights: Mapping[str, NDArray[np.generic]]) -> None:
    """Point the graph's large tensors at their bytes in the safetensors file (8-byte length, JSON header, data)."""
    with file.open("rb") as opened:
        header_size = struct.unpack("<Q", opened.read(8))[0]
        header = json.loads(opened.read(header_size))
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            start, stop = header[tensor.name]["data_offsets"]
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            place = {"location": file.name, "offset": 8 + header_size + start, "length": stop - start}
            for key, value in place.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(value)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read the portable state of a bundle's model."""
    from safetensors.torch import load_file

    tensors = {**load_file(folder / "weights.safetensors"), **load_file(folder / "small.safetensors")}
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """torch.onnx prints progress and warns of torchvision; neither is for the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)
