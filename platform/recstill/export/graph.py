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


class Joined(nn.Module):
    """Puts one query beside N items. forward: query_dense (1, Dq), query_ids (1, Fq), item_dense (N, Di), item_ids (N, Fi) ->
    dense (N, Dq + Di) and ids in the order of the model's input, whose query part is looked up once."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.register_buffer("query_slots", torch.tensor(layout.query_slots, dtype=torch.long))
        self.register_buffer("item_slots", torch.tensor(layout.item_slots, dtype=torch.long))
        self.register_buffer("dense_order", torch.argsort(torch.tensor([*layout.query_dense, *layout.item_dense])))
        self.register_buffer("slot_order", torch.argsort(torch.tensor([*layout.query_slots, *layout.item_slots])))
        self.query_slots: Tensor
        self.item_slots: Tensor
        self.dense_order: Tensor
        self.slot_order: Tensor

    def forward(self, query_dense: Tensor, query_ids: Tensor, item_dense: Tensor, item_ids: Tensor) -> tuple[Tensor, SplitIds]:
        dense = torch.cat([query_dense.expand(item_dense.shape[0], -1), item_dense], 1).index_select(1, self.dense_order)
        return dense, SplitIds(query_ids, item_ids, self.query_slots, self.item_slots, self.slot_order)


class ServingGraph(nn.Module):
    """What is exported: one query against N items, answers on the labels' own scale.

    inputs: as `Joined`. outputs: one (N,) or (N, C) per label: probability, expected count or value; then the primary label's
    terms (N, P) if the model has such, and with `vectors` those of query and item (N, d). Tables are read once for the query
    and its vectors spread over the items.
    """

    def __init__(self, model: nn.Module, layout: Layout, labels: Sequence[LabelSpec], vectors: bool = False) -> None:
        super().__init__()
        self.model, self.labels, self.vectors, self.joined = model, tuple(labels), vectors, Joined(layout)
        self.primary = next(label.name for label in labels if label.primary)

    def forward(self, query_dense: Tensor, query_ids: Tensor, item_dense: Tensor, item_ids: Tensor) -> tuple[Tensor, ...]:
        dense, sparse = self.joined(query_dense, query_ids, item_dense, item_ids)
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
    beside = [*(["#parts"] if hasattr(model, "part_names") else []), *(["#query", "#item"] if vectors else [])]
    proto = to_onnx(graph, sample_inputs(layout), [*(label.name for label in labels), *beside])
    weights = large_tensors(proto)
    store_tensors(proto, weights, folder / "weights.safetensors")
    onnx.save(proto, folder / "model.onnx")
    # Small weights stay inline in the graph; this copy of all of them is what a training process loads again.
    state = {name: value.contiguous() for name, value in model.state_dict().items() if f"model.{name}" not in weights}
    save_file({f"model.{name}": value.numpy() for name, value in state.items()}, folder / "small.safetensors")


def sample_inputs(layout: Layout, num_items: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs of a graph's shapes, to trace it with."""
    return (
        torch.zeros(1, len(layout.query_dense)),
        torch.zeros(1, len(layout.query_slots), dtype=torch.long),
        torch.zeros(num_items, len(layout.item_dense)),
        torch.zeros(num_items, len(layout.item_slots), dtype=torch.long),
    )


def to_onnx(graph: nn.Module, arguments: tuple[Tensor, ...], output_names: Sequence[str]) -> onnx.ModelProto:
    """Export a graph of one query and any number of items."""
    items = torch.export.Dim("items", min=1, max=1_000_000)
    with _quiet():
        program = torch.onnx.export(
            graph, arguments, dynamo=True, opset_version=_OPSET, input_names=list(INPUTS), verbose=False,
            output_names=list(output_names), dynamic_shapes=(None, None, {0: items}, {0: items}),
        )  # fmt: skip
    assert program is not None
    return _bare(program.model_proto)


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without the exporter's notes: three quarters of a small one, and paths of this machine among them."""
    del proto.graph.metadata_props[:]
    for entry in (
        *proto.graph.node,
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        del entry.metadata_props[:]
        entry.doc_string = ""
    return proto


def large_tensors(proto: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a graph that are worth a place outside of it."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {name: value for name, value in arrays.items() if value.nbytes >= _INLINE_BYTES}


def store_tensors(proto: onnx.ModelProto, tensors: Mapping[str, NDArray[np.generic]], file: Path) -> None:
    """Write tensors of a graph to a safetensors file and let the graph refer to them."""
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file)
    refer(proto, file, {name: name for name in tensors})


def refer(proto: onnx.ModelProto, file: Path, names: Mapping[str, str]) -> None:
    """Point tensors of a graph at their bytes in a safetensors file (8-byte length, JSON header, data): {name: name there}."""
    with file.open("rb") as opened:
        header_size = struct.unpack("<Q", opened.read(8))[0]
        header = json.loads(opened.read(header_size))
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            start, stop = header[names[tensor.name]]["data_offsets"]
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
