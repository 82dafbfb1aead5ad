"""The tables that a model is written against."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad

from recstill.api.models import ModelInputs, Slot
from recstill.data.encoders import MISSING_ROW
from recstill.embeddings.batches import position_keys
from recstill.embeddings.pooling import pool, present_by_position
from recstill.embeddings.rounding import Int8Embedding, rounded, to_int8

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recstill.api.task import LabelSpec

QueryPlaces = tuple[tuple[int, ...], tuple[int, ...]]
_ADAM_LIMIT = 20_000_000

# torchrec asks torch.fx something at every first forward, and torch warns that the answer will change one day.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


@dataclass(frozen=True)
class TableOptimizer:
    """How tables learn. `rowwise-adagrad`: exact, fused into the backward pass, touches only the rows seen; tables want a far
    larger rate than the dense net: search it. `adam`: dense gradients, for small tables only (every step costs all rows),
    where matrix factorisation needs it."""

    learning_rate: float = 0.1
    eps: float = 1e-8
    l2: float = 0.0
    kind: Literal["rowwise-adagrad", "adam"] = "rowwise-adagrad"
    init_std: float | None = None


class TrainingTables(nn.Module):
    """Tables that train. The row of missing values begins at zero: where training had none, missing says nothing.

    penalty: with l2, half of l2 times the mean squared norm of the vectors of the last batch, for the loss to add. It pulls
    on the rows seen only; fbgemm's own weight decay does nothing on CPUs.
    """

    def __init__(self, slots: Sequence[Slot], dim: int, optimizer: TableOptimizer, expand: bool) -> None:
        super().__init__()
        self.slots, self.dim, self.expand = tuple(slots), dim, expand
        self.widths = [len(position_keys(slot)) for slot in slots]
        self.l2 = optimizer.l2
        self.penalty: Tensor | None = None
        self.frozen = self.rounds = False

    def remember(self, vectors: Tensor) -> Tensor:
        """Note the penalty of the vectors (B, F, dim) of a batch and return them, cut off from frozen tables."""
        if self.frozen:
            return vectors.detach()
        if self.l2 and self.training:
            self.penalty = 0.5 * self.l2 * vectors.square().sum((1, 2)).mean()
        return vectors

    def pool(self, summed: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        """Return what models see of sums by key (B, keys, dim); with `rounds`, of vectors as eight bits hold them."""
        if self.rounds:  # a bag's sum is not a row: bags see their rounding only when it is done
            keys = [slot.kind == "bag" for slot, width in zip(self.slots, self.widths, strict=True) for _ in range(width)]
            summed = torch.where(torch.tensor(keys)[None, :, None], summed, rounded(summed))
        if any(slot.width > 1 for slot in self.slots):
            counts = self._counts(sparse)
            summed = pool(summed / counts.clamp(min=1).unsqueeze(2), counts, self.slots, self.widths, self.expand)
        return self.remember(summed)

    def present(self, sparse: KeyedJaggedTensor) -> Tensor:
        """Return (B, P), 1 where there is an id."""
        return present_by_position(self._counts(sparse), self.slots, self.widths)

    def _counts(self, sparse: KeyedJaggedTensor) -> Tensor:
        return sparse.lengths().view(sum(self.widths), -1).t()


class FusedTables(TrainingTables):
    """TorchRec tables whose optimizer runs inside the backward pass. forward: KeyedJaggedTensor -> (B, F, dim)."""

    def __init__(
        self, slots: Sequence[Slot], dim: int, optimizer: TableOptimizer, device: torch.device, expand: bool = False
    ) -> None:
        super().__init__(slots, dim, optimizer, expand)
        if dim < 4 or dim % 4:
            raise ValueError(f"dim must be a multiple of 4 (fused tables read 16 bytes at a time), not {dim}")
        configs = [
            EmbeddingBagConfig(
                name=table,
                num_embeddings=next(slot.num_rows for slot in slots if slot.table == table),
                embedding_dim=dim,
                feature_names=[key for slot in slots if slot.table == table for key in position_keys(slot)],
                pooling=PoolingType.SUM,
            )
            for table in dict.fromkeys(slot.table for slot in slots)
        ]
        options = {"lr": optimizer.learning_rate, "eps": optimizer.eps}
        self.collection = FusedEmbeddingBagCollection(configs, RowWiseAdagrad, options, device=device)
        if optimizer.init_std is not None:
            for table in self.collection.state_dict().values():
                table.normal_(0.0, optimizer.init_std)
        for table in self.collection.state_dict().values():
            table[MISSING_ROW] = 0.0

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        return self.pool(self.collection(sparse).values().view(-1, sum(self.widths), self.dim), sparse)


class AdamTables(TrainingTables):
    """One embedding with dense gradients, for the dense optimizer. forward: KeyedJaggedTensor -> (B, F, dim)."""

    def __init__(
        self, slots: Sequence[Slot], dim: int, optimizer: TableOptimizer, device: torch.device, expand: bool = False
    ) -> None:
        super().__init__(slots, dim, optimizer, expand)
        starts, num_rows = table_starts(slots)
        if num_rows * dim > _ADAM_LIMIT:
            raise ValueError(f"adam would update {num_rows * dim:,} table weights a step; use rowwise-adagrad")
        self.embedding = nn.Embedding(max(num_rows, 1), dim, device=device)
        if optimizer.init_std is not None:
            nn.init.normal_(self.embedding.weight, 0.0, optimizer.init_std)
        with torch.no_grad():
            self.embedding.weight[[start + MISSING_ROW for start in starts.values()]] = 0.0
        offsets = [starts[slot.table] for slot, width in zip(slots, self.widths, strict=True) for _ in range(width)]
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        self.offsets: Tensor

    def forward(self, sparse: KeyedJaggedTensor) -> Tensor:
        num_rows, num_keys = sparse.stride(), len(self.offsets)
        if all(slot.width == 1 for slot in self.slots):
            return self.pool(self.embedding(sparse.values().view(num_keys, -1).t() + self.offsets), sparse)
        lengths = sparse.lengths()
        ids = sparse.values() + self.offsets.repeat_interleave(num_rows).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        summed = F.embedding_bag(ids, self.embedding.weight, starts, mode="sum")
        return self.pool(summed.view(num_keys, num_rows, self.dim).transpose(0, 1), sparse)


class NoTables(nn.Module):
    """What a model reads where its inputs have no slots. forward: anything sparse of B rows -> (B, 0, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, sparse: KeyedJaggedTensor | SplitIds | Tensor) -> Tensor:
        ids = _ids_of(sparse)
        return torch.zeros(ids.shape[0], 0, self.dim, device=ids.device)

    def present(self, sparse: KeyedJaggedTensor | SplitIds | Tensor) -> Tensor:
        """Return (B, 0)."""
        ids = _ids_of(sparse)
        return torch.zeros(ids.shape[0], 0, device=ids.device)


def _ids_of(sparse: KeyedJaggedTensor | SplitIds | Tensor) -> Tensor:
    """Return a tensor of as many rows."""
    if isinstance(sparse, KeyedJaggedTensor):
        return torch.zeros(sparse.stride(), 0, device=sparse.device())
    return sparse if isinstance(sparse, Tensor) else sparse.items


def table_starts(slots: Sequence[Slot]) -> tuple[dict[str, int], int]:
    """Return where each table begins when all are put one after the other, and the number of rows."""
    starts, start = {}, 0
    for slot in slots:
        if slot.table not in starts:
            starts[slot.table] = start
            start += slot.num_rows
    return starts, start


class ConcatenatedTables(nn.Module):
    """All tables as one `nn.Embedding` with an offset per slot: exports to one Gather, where bags would cost 40 x.

    forward: ids (B, F) local to each slot's table, or a pair (query ids (1, Fq), item ids (N, Fi)) whose query part is
    looked up once and spread over the N candidates; `order` then puts the slots in their places.
    """

    def __init__(self, slots: Sequence[Slot], dim: int, expand: bool = False) -> None:
        super().__init__()
        self.slots, self.expand, self.widths = tuple(slots), expand, [slot.width for slot in slots]
        starts, num_rows = table_starts(slots)
        self.embedding: nn.Module = nn.Embedding(max(num_rows, 1), dim)
        offsets = [starts[slot.table] for slot in slots for _ in range(slot.width)]
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        self.offsets: Tensor

    def forward(self, sparse: Tensor | SplitIds) -> Tensor:
        # The table may be stored in float16; what follows computes in float32.
        if isinstance(sparse, Tensor):
            together = self.embedding(sparse + self.offsets).float()
        else:
            query = self.embedding(sparse.query + self.offsets[sparse.query_slots]).float()
            items = self.embedding(sparse.items + self.offsets[sparse.item_slots]).float()
            together = torch.cat([query.expand(items.shape[0], -1, -1), items], 1).index_select(1, sparse.order)
        if all(width == 1 for width in self.widths):
            return together
        return pool(together, _is_id(sparse), self.slots, self.widths, self.expand)

    def present(self, sparse: Tensor | SplitIds) -> Tensor:
        """Return (B, P), 1 where there is an id."""
        return present_by_position(_is_id(sparse), self.slots, self.widths)


def _is_id(sparse: Tensor | SplitIds) -> Tensor:
    if isinstance(sparse, Tensor):
        return (sparse != 0).float()
    query, items = (sparse.query != 0).float(), (sparse.items != 0).float()
    return torch.cat([query.expand(items.shape[0], -1), items], 1).index_select(1, sparse.order)


def table_penalty(model: nn.Module) -> Tensor | float:
    """Return the sum of the penalties of all tables for the last batch."""
    return sum((m.penalty for m in model.modules() if isinstance(m, TrainingTables) and m.penalty is not None), 0.0)


@dataclass(frozen=True)
class SplitIds:
    """The ids of one request: query part once, item part per candidate."""

    query: Tensor
    items: Tensor
    query_slots: Tensor
    item_slots: Tensor
    order: Tensor


def training_inputs(
    num_dense: int,
    slots: Sequence[Slot],
    labels: Sequence[LabelSpec],
    optimizer: TableOptimizer,
    device: torch.device | str = "cpu",
    query: QueryPlaces = ((), ()),
    dense_names: tuple[str, ...] = (),
) -> ModelInputs:
    """Return inputs whose tables train."""
    place = torch.device(device)

    def tables(dim: int, *, expand: bool = False) -> nn.Module:
        if not slots:
            return NoTables(dim)
        if optimizer.kind == "adam":
            return AdamTables(slots, dim, optimizer, place, expand)
        return FusedTables(slots, dim, optimizer, place, expand)

    return ModelInputs(num_dense, tuple(slots), tuple(labels), tables, *query, dense_names)


def export_inputs(
    num_dense: int,
    slots: Sequence[Slot],
    labels: Sequence[LabelSpec],
    query: QueryPlaces = ((), ()),
    dense_names: tuple[str, ...] = (),
) -> ModelInputs:
    """Return inputs whose tables export."""

    def tables(dim: int, *, expand: bool = False) -> nn.Module:
        return ConcatenatedTables(slots, dim, expand) if slots else NoTables(dim)

    return ModelInputs(num_dense, tuple(slots), tuple(labels), tables, *query, dense_names)


def portable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the names that the exporting model has: each set of tables as one matrix."""
    state = {}
    fused = {name: module for name, module in model.named_modules() if isinstance(module, FusedTables)}
    for name, value in model.state_dict().items():
        if not any(name.startswith(f"{prefix}.collection.") for prefix in fused):
            state[name] = value.detach().cpu().contiguous()
    for prefix, module in fused.items():
        tables = module.collection.state_dict()
        rows = [tables[f"embedding_bags.{config.name}.weight"] for config in module.collection.embedding_bag_configs()]
        state[f"{prefix}.embedding.weight"] = torch.cat([row.detach().cpu() for row in rows]).contiguous()
    return state


def round_tables(model: nn.Module, state: Mapping[str, Tensor], *, int8: bool = False) -> dict[str, Tensor]:
    """Return a portable state whose tables are float16, or int8 with a float16 scale per row, and give the training model the
    same rounded values."""
    small = dict(state)
    for prefix, module in model.named_modules():
        if isinstance(module, TrainingTables):
            weight, scale = f"{prefix}.embedding.weight", f"{prefix}.embedding.scale"
            if int8:
                small[weight], small[scale] = to_int8(small[weight])
            else:
                small[weight] = small[weight].half()
    load_portable_state(model, small)
    return small


def load_portable_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `portable_state` gave, into a training or an exporting model; the latter takes the tables' precision."""
    remaining = dict(state)
    for prefix, module in model.named_modules():
        weight, scale = f"{prefix}.embedding.weight", f"{prefix}.embedding.scale"
        if isinstance(module, ConcatenatedTables) and scale in remaining:
            module.embedding = Int8Embedding(*remaining[weight].shape)
        elif isinstance(module, ConcatenatedTables):
            module.embedding.to(remaining[weight].dtype)
        elif isinstance(module, TrainingTables) and scale in remaining:
            remaining[weight] = remaining[weight].float() * remaining.pop(scale).float()
        if isinstance(module, FusedTables):
            matrix, start = remaining.pop(f"{prefix}.embedding.weight"), 0
            for config in module.collection.embedding_bag_configs():
                weight = module.collection.state_dict()[f"embedding_bags.{config.name}.weight"]
                with torch.no_grad():
                    weight.copy_(matrix[start : start + config.num_embeddings])
                start += config.num_embeddings
            remaining.update({name: v for name, v in model.state_dict().items() if name.startswith(f"{prefix}.collection.")})
    model.load_state_dict(remaining)


def num_parameters(state: Mapping[str, Tensor]) -> int:
    """Count the weights of a portable state; the scales of eight-bit tables say how to read them, and are none."""
    return sum(value.numel() for name, value in state.items() if not name.endswith(".embedding.scale"))
