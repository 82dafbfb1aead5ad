"""From trained weights to a bundle, checked against the model it came from."""

from __future__ import annotations

import importlib.metadata
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import load_file

from recstill.api.errors import PluginError
from recstill.api.measured import Undefined, measured, text_of
from recstill.data.bundle import CARD, bundle_size, write_manifest
from recstill.data.files import new_folder, sha256_of
from recstill.data.transform import Encoded
from recstill.embeddings.tables import export_inputs, load_portable_state, num_parameters
from recstill.evaluation.metrics import predictions_of
from recstill.export.attribution import export_attributions, mean_row
from recstill.export.graph import Layout, export_graph
from recstill.recipes.gating import bounds_of
from recstill.recipes.rows import Role, largest_groups
from recstill.recipes.training import load_trained
from recstill.serving.scorer import Graph
from recstill.training.loop import predict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from recstill.api.measured import Measured
    from recstill.data.columns import Values
    from recstill.recipes.run import Run

_PACKAGES = ("recstill", "torch", "torchrec", "onnx", "onnxruntime", "numpy", "feast")
LATENCY_ITEMS = 200
T = TypeVar("T")
# Of the largest groups and of others, at most so many rows of each; and of their queries the same.
PARITY_GROUPS, PARITY_QUERIES, PARITY_ROWS = 20, 50, 500


def export_bundle(run: Run, role: Role, name: str, seed: int, metrics: Mapping[str, Measured]) -> Path:
    """Write the bundle of a trained model and return its folder."""
    part = run.recipe.part(role)
    transform, sides = run.rows.transform(role), run.rows.sides(role)
    features = run.features[role]
    places, names = run.rows.query_places(role), transform.dense_names
    inputs = export_inputs(transform.num_dense, transform.slots, run.task.spec.labels, places, names)
    options = run.options_of(name, role)
    model = run.factory(role)(inputs, **options)
    state = load_file(run.weights(name))
    load_portable_state(model, state)
    query_dense, item_dense = sides.dense_places(transform)
    query_slots, item_slots = sides.slot_places(transform)
    distribution, version, _ = run.platform.plugin_of(run.kind(role), part.name)
    target = run.folder / "bundles" / f"{role}-{sha256_of(run.weights(name))[:12]}"
    with new_folder(target) as folder:
        layout = Layout(query_dense, query_slots, item_dense, item_slots)
        vectors = run.task.spec.endpoint.catalogue
        export_graph(model, layout, run.task.spec.labels, folder, vectors=vectors)
        transform.save(folder)
        content = {
            "task": run.task.spec,
            "role": role,
            "model": part.name,
            "plugin": f"{distribution}=={version}",
            "options": options,
            "run": run.id,
            "seed": seed,
            "snapshot": run.snapshot.id,
            "feature_service": features.service,
            "fingerprint": features.fingerprint,
            "features": features.to_json(),
            "sides": sides,
            "key_types": run.rows.key_types(role),
            "num_parameters": num_parameters(state),
            "vectors": vectors,
            "gates": bounds_of(run.task.spec, run.recipe),
            **_parts(run, role, name),
            **_attributions(run, role, model, layout, folder),
            "packages": {package: importlib.metadata.version(package) for package in _PACKAGES},
        }
        (folder / CARD).write_text(bundle_card(run, role, metrics))
        write_manifest(folder, content)
    return target


def _parts(run: Run, role: Role, name: str) -> dict[str, Any]:
    """Return the names of a model's terms, if it has such, and their means over the training rows: what a reason is beside."""
    model = load_trained(run, name, role)
    if not hasattr(model, "part_names"):
        return {}
    rows, label = run.rows.tensors(role, "train"), run.task.spec.primary.name
    with torch.no_grad():
        terms = torch.cat([model(batch).parts[label] for batch in rows.batches(16_384)])
    return {"part_names": list(cast("tuple[str, ...]", model.part_names)), "part_means": terms.double().mean(0).tolist()}


def _attributions(run: Run, role: Role, model: nn.Module, layout: Layout, folder: Path) -> dict[str, Any]:
    """Export what explains a student that decides and has no terms of its own; return what the manifest says about it."""
    spec, transform = run.task.spec, run.rows.transform(role)
    if role != "student" or spec.decision is None or spec.endpoint.catalogue or hasattr(model, "part_names"):
        return {}
    rows = run.rows.tensors(role, "train")
    baseline = mean_row(model, rows.dense, rows.ids)
    try:
        names = export_attributions(model, layout, spec.primary.name, baseline, transform.dense_names, transform.slots, folder)
    except PluginError as error:  # a decision without reasons is still a decision, and `explain` says that there are none
        run.progress.say(f"warning: {error}")
        return {}
    return {"attributed": names, "attributed_from": baseline.logit(model, spec.primary.name)}


def check_bundle(run: Run, role: Role, name: str, folder: Path) -> dict[str, Measured]:
    """Score test queries through the exported graph; return the largest difference to the model, the size, the latency.

    explain.max_residual: how far the effects of a row's features are from adding up to its logit, in the largest query.
    """
    graph = Graph(folder)
    model = load_trained(run, name, role)
    rows = run.rows.snapshot.rows_of("test")
    queries = _queries(run, role, rows)
    found = {"parity.max_difference": _parity(run, role, graph, model, queries)}
    found["bundle.bytes"] = float(bundle_size(folder))
    picked = np.resize(largest_groups(run.rows.groups("test"), 1)[0], LATENCY_ITEMS)
    found["latency.ms_per_200"] = _latency(graph, *split_encoded(run, role, run.rows.encoded(role, rows[picked])))
    if (residual := _residual(run, role, graph, model, queries[0])) is not None:
        found["explain.max_residual"] = residual
    return measured(found)


def _queries(run: Run, role: Role, rows: Values) -> list[NDArray[np.int64]]:
    """Return the places of the rows of some queries, the largest first. Rows are of one query if their query part is the same
    for the model: a group may hold several, such as the cards of a day."""
    transform, sides = run.rows.transform(role), run.rows.sides(role)
    groups = run.rows.groups("test")
    numbers, sizes = np.unique(groups, return_counts=True)
    found: list[NDArray[np.int64]] = []
    for group in _spread(numbers[np.argsort(-sizes, kind="stable")].tolist(), PARITY_GROUPS):
        places = np.flatnonzero(groups == group)[:PARITY_ROWS]
        encoded = run.rows.encoded(role, rows[places])
        dense, ids = encoded.dense[:, sides.dense_places(transform)[0]], encoded.ids[:, sides.slot_places(transform)[0]]
        bits = np.concatenate([_bytes(dense), _bytes(ids)], axis=1)
        _, query = np.unique(bits, axis=0, return_inverse=True)
        found += [places[of_query] for of_query in largest_groups(query.reshape(-1), len(places))]
    return _spread(sorted(found, key=len, reverse=True), PARITY_QUERIES)


def _spread(parts: Sequence[T], count: int) -> list[T]:
    """The first `count` of them, and as many at even distances among the others."""
    others = parts[count:]
    return [*parts[:count], *others[:: max(1, len(others) // count)][:count]]


def _bytes(values: Values) -> NDArray[np.uint8]:
    """The bytes of each row: the same where all values are, NaN too."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _parity(run: Run, role: Role, graph: Graph, model: nn.Module, queries: Sequence[NDArray[np.int64]]) -> float:
    """The largest difference of a score: absolute up to 1 and relative above, since amounts have no bound."""
    worst, wrong = 0.0, 0
    for difference in _differences(run, role, graph, model, queries):
        wrong += int((~np.isfinite(difference)).sum())
        worst = max(worst, float(difference.max()))
    return Undefined(f"{wrong:,} scores of the graph or the model are not finite numbers") if wrong else worst


def _differences(
    run: Run, role: Role, graph: Graph, model: nn.Module, queries: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.floating]]:
    tensors, rows = run.rows.tensors(role, "test"), run.rows.snapshot.rows_of("test")
    for places in queries:
        answered = graph.run(*split_encoded(run, role, run.rows.encoded(role, rows[places])))
        with torch.no_grad():
            logits = model(tensors.batch(torch.from_numpy(places))).logits
        for label in run.task.spec.labels:
            expected = predictions_of(label, logits[label.name].float().numpy())
            yield np.abs(answered[label.name] - expected) / np.maximum(1.0, np.abs(expected))


def _latency(graph: Graph, query: Encoded, items: Encoded) -> float:
    """The median of fifty answers, in milliseconds."""
    seconds = []
    for _ in range(60):
        started = time.perf_counter()
        graph.run(query, items)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[10:]) * 1000)


def _residual(run: Run, role: Role, graph: Graph, model: nn.Module, places: NDArray[np.int64]) -> float | None:
    rows = run.rows.snapshot.rows_of("test")[places]
    effects = graph.attributions(*split_encoded(run, role, run.rows.encoded(role, rows)))
    if effects is None:
        return None
    with torch.no_grad():
        output = model(run.rows.tensors(role, "test").batch(torch.from_numpy(places)))
    logits = output.logits[run.task.spec.primary.name].numpy()
    return float(np.abs(effects.sum(1) - (logits - graph.manifest.attributed_from)).max())


def split_encoded(run: Run, role: Role, encoded: Encoded) -> tuple[Encoded, Encoded]:
    """Cut rows of one query into the graph's query part (of the first row) and item part."""
    transform, sides = run.rows.transform(role), run.rows.sides(role)
    (query_dense, item_dense), (query_slots, item_slots) = sides.dense_places(transform), sides.slot_places(transform)
    query = Encoded(encoded.dense[:1, query_dense], encoded.ids[:1, query_slots])
    return query, Encoded(encoded.dense[:, item_dense], encoded.ids[:, item_slots])


def test_logits(run: Run, role: Role, name: str) -> dict[str, Any]:
    """Return the test predictions of a stored model, for plots."""
    logits = predict(load_trained(run, name, role), run.rows.tensors(role, "test"))
    return {label.name: predictions_of(label, logits[label.name].numpy()) for label in run.task.spec.labels}


def bundle_card(run: Run, role: Role, metrics: Mapping[str, Measured]) -> str:
    """Return the model card that lies in a bundle."""
    part, features = run.recipe.part(role), run.features[role]
    distribution, version, _ = run.platform.plugin_of(run.kind(role), part.name)
    rows = "\n".join(f"| {name} | {text_of(value)} |" for name, value in sorted(metrics.items()))
    dataset = run.snapshot.meta["dataset"]
    licence = run.platform.dataset_of(run.task).licence
    return (
        f"# {part.name}, {role} of task {run.task.spec.name}\n\n{run.task.spec.description}\n\n"
        f"- run {run.id}, seed {run.recipe.seeds[0]}, snapshot {run.snapshot.id}\n"
        f"- data: {dataset['name']} {dataset['version']} ({licence})\n"
        f"- features: {features.service} ({features.fingerprint})\n"
        f"- made by {distribution}=={version}\n\n| metric on the test split | value |\n|---|---|\n{rows}\n"
    )
