"""What teachers say in a run: scored into the signal store, read from it, or asked live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recstill.api.errors import DataError
from recstill.distillation.signals import (
    CatalogueSignals,
    Committee,
    LiveSignals,
    RowSignals,
    SignalSource,
    age_in_days,
    open_signals,
)
from recstill.distillation.store import SignalKey, SignalStore
from recstill.evaluation.retrieval import top_items
from recstill.recipes.columns import CHUNK as COLUMN_CHUNK
from recstill.recipes.columns import answers, open_columns, reads_columns
from recstill.recipes.judging import vectors_of
from recstill.recipes.stage_inputs import score_inputs
from recstill.recipes.training import load_trained
from recstill.training.loop import DenseForward, has_fast_bf16

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from recstill.api.batch import Batch
    from recstill.recipes.run import Run

CHUNK = 65_536


def store_of(run: Run, teacher: str, inputs: str) -> SignalStore:
    """Return the store of a teacher version's signals for the run's snapshot; `inputs` is the key of all that decides them."""
    key = SignalKey(run.task.spec.name, teacher, run.snapshot.id, inputs)
    return SignalStore(key, run.platform.settings.folder("signals"))


def score_teacher(run: Run, role: str, weights: str, store: SignalStore, hidden: Sequence[str]) -> dict[str, Any]:
    """Score every training and validation row that is not scored yet, part by part; return coverage and size."""
    label = run.task.spec.primary.name
    facts = {
        "snapshot_sha256": run.snapshot.meta["sha256"],
        "num_snapshot_rows": run.snapshot.meta["num_rows"],
        "labels": [spec.name for spec in run.task.spec.labels],
        "sampling_rate": run.recipe.part(role).keep_negatives,
    }
    if reads_columns(run.factory(role)):
        return _score_columns(run, role, store, facts, hidden)
    model = load_trained(run, weights, role)
    if run.task.spec.retrieval is not None:
        _score_catalogue(run, role, model, store, {**facts, "labels": [label], "hidden": {}, "kind": "catalogue"})
        return {"coverage": 1.0, "bytes": store.num_bytes}
    parts = [run.rows.tensors(role, split) for split in run.taught_splits]
    row_ids = torch.cat([part.row_ids for part in parts])
    widths = _widths(model, parts[0].batch(torch.arange(min(2, len(parts[0])))), hidden)
    done = store.begin({**facts, "hidden": widths, "kind": "rows"})
    hidden = list((store.card or {})["hidden"])  # a store that keeps more goes on keeping it
    forward = DenseForward(model.eval(), run.recipe.part(role).training.bf16 and has_fast_bf16(parts[0].device))
    times = run.snapshot.columns(["event_timestamp"])["event_timestamp"] if "event_timestamp" in run.columns else None
    num_parts, number = sum(-(-len(part) // CHUNK) for part in parts), 0
    for part in parts:
        for start in range(0, len(part), CHUNK):
            name, number = f"rows-{number:05d}.parquet", number + 1
            if name in done:
                continue
            places = torch.arange(start, min(start + CHUNK, len(part)))
            columns = _columns(forward, [part.batch(some) for some in places.split(16_384)], hidden)
            ids = part.row_ids[places].numpy()
            store.append(name, {"row_id": ids, **columns}, None if times is None else times[ids])
            run.progress.steps(number, num_parts, unit="part")
    store.seal()
    return {"coverage": len(row_ids) / run.snapshot.meta["num_rows"], "bytes": store.num_bytes}


def _score_columns(run: Run, role: str, store: SignalStore, facts: Mapping[str, Any], hidden: Sequence[str]) -> dict[str, Any]:
    predictor = open_columns(run, role)
    done = store.begin({**facts, "hidden": {name: predictor.hidden[name] for name in hidden}, "kind": "rows"})
    hidden = list((store.card or {})["hidden"])
    kept = [f"hidden_{name}" for name in hidden]
    rows = np.concatenate([run.snapshot.rows_of(split) for split in run.taught_splits])
    times = run.snapshot.columns(["event_timestamp"])["event_timestamp"] if "event_timestamp" in run.columns else None
    num_parts = -(-len(rows) // COLUMN_CHUNK)
    names = [f"rows-{number:05d}.parquet" for number in range(num_parts)]
    skip = {number for number, name in enumerate(names) if name in done}
    for number, ids, said in answers(run, role, predictor, rows, hidden, skip):
        columns = {key: values for key, values in said.items() if key.startswith("logit_")}
        columns |= {key: said[key].astype(np.float16) for key in kept}
        store.append(names[number], {"row_id": ids, **columns}, None if times is None else times[ids])
        run.progress.steps(number + 1, num_parts, unit="part")
    store.seal()
    return {"coverage": len(rows) / run.snapshot.meta["num_rows"], "bytes": store.num_bytes}


def _widths(model: nn.Module, batch: Batch, hidden: Sequence[str]) -> dict[str, int]:
    with torch.no_grad():
        found = model.eval()(batch).hidden
    return {name: int(found[name].shape[1]) for name in hidden}


@torch.no_grad()
def _columns(forward: nn.Module, batches: Sequence[Batch], hidden: Sequence[str]) -> dict[str, Any]:
    outputs = [forward(batch) for batch in batches]
    columns = {
        f"logit_{label}": torch.cat([output.logits[label].float() for output in outputs]).numpy() for label in outputs[0].logits
    }
    for name in hidden:  # half precision: a hint needs no more, and hidden vectors are most of the bytes
        columns[f"hidden_{name}"] = torch.cat([output.hidden[name].half() for output in outputs]).numpy()
    return columns


def _score_catalogue(run: Run, role: str, model: nn.Module, store: SignalStore, facts: Mapping[str, Any]) -> None:
    num_top = run.recipe.distil.lists.top
    done = store.begin({**facts, "num_top": num_top})
    if store.is_complete:
        return
    queries, items = (vectors.numpy() for vectors in vectors_of(model, run.rows.catalogue(role)))
    top = top_items(queries, items, run.rows.known_pairs("train"), min(num_top, len(items)))
    parts: dict[str, dict[str, Any]] = {
        "query.parquet": {"row_id": np.arange(len(queries)), "vector": queries.astype(np.float16)},
        "item.parquet": {"row_id": np.arange(len(items)), "vector": items.astype(np.float16)},
        "top.parquet": {"row_id": np.arange(len(top)), "items": top},
    }
    for name, columns in parts.items():
        if name not in done:
            store.append(name, columns)
    store.seal()


def open_teachers(run: Run, versions: Mapping[str, tuple[str, str]]) -> SignalSource:
    """Return the signals of all teachers: {version: (role, weights)}, from the store or live as the recipe says."""
    distil = run.recipe.distil
    if distil.live:
        live: list[SignalSource] = [
            LiveSignals(load_trained(run, weights, role), _rows_by_id(run, role), run.recipe.part(role).keep_negatives)
            for role, weights in versions.values()
        ]
        return live[0] if len(live) == 1 else Committee(live)
    sources: list[SignalSource] = []
    for version, (role, weights) in versions.items():
        store = store_of(run, version, score_inputs(run, role, version, weights).key)
        source = open_signals(store, run.snapshot.meta["sha256"])
        card = store.card
        assert card is not None
        if distil.max_age_days is not None and (age := age_in_days(card)) > distil.max_age_days:
            raise DataError(
                f"The signals of {version} are {age:.1f} days old, the recipe allows {distil.max_age_days:g} (max_age_days). "
                f"Score a newer teacher, or delete {store.folder}."
            )
        if isinstance(source, RowSignals):
            covered = source.covered(run.rows.tensors("student", "train").row_ids)
            if covered < distil.min_coverage:
                raise DataError(
                    f"The signals of {version} cover {covered:.1%} of the training rows, the recipe wants "
                    f"{distil.min_coverage:.1%} (min_coverage). Score again: `recstill signals score`."
                )
        sources.append(source)
    return sources[0] if len(sources) == 1 else Committee(sources)


def top_of(source: SignalSource) -> Tensor | None:
    """Return the first teacher's best items of each query, if it keeps them."""
    first = source.members[0] if isinstance(source, Committee) else source
    return first.top if isinstance(first, CatalogueSignals) else None


def _rows_by_id(run: Run, role: str) -> Any:
    if run.task.spec.retrieval is not None:
        catalogue = run.rows.catalogue(role)
        return lambda row_ids: catalogue.pairs(*catalogue.split(row_ids), {}, None)
    splits = [run.rows.tensors(role, split) for split in run.taught_splits]
    rows = splits[0]
    for further in splits[1:]:
        rows = rows.joined(further)
    place = torch.full((run.snapshot.meta["num_rows"],), -1)
    place[rows.row_ids] = torch.arange(len(rows))
    return lambda row_ids: rows.batch(place[row_ids])
