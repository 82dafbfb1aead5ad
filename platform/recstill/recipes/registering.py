"""Write the versions of a run into the registry, with their lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from recstill.api.errors import ConfigError
from recstill.api.measured import numbers_of
from recstill.data.bundle import MANIFEST, bundle_size, open_bundle
from recstill.data.files import read_json, sha256_of
from recstill.data.transform import Transform
from recstill.export.graph import load_weights
from recstill.recipes.columns import reads_columns, unpack_columns
from recstill.registry.known import record_artifact
from recstill.registry.runs import record_feature_set
from recstill.registry.versions import NewVersion, add_version, find_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from recstill.api.measured import Measured
    from recstill.recipes.run import Run

Lineage = list[tuple[str, str, dict[str, Any]]]


def register_teacher(run: Run, role: str, folder: Path, trained: dict[str, Any], metrics: Mapping[str, Measured]) -> str:
    """Store and register a teacher of a run."""
    part = run.recipe.part(role)
    lineage = [*_common(run), _plugin(run, run.kind(role), part.name)]
    return _register(run, part.register_as, folder, trained, metrics, lineage, run.features[role].to_json())


def register_student(
    run: Run, folder: Path, trained: dict[str, Any], metrics: Mapping[str, Measured], taught: dict[str, dict[str, Any]]
) -> str:
    """Store and register the student of a run, a child of its teachers."""
    lineage: Lineage = []
    for role, found in taught.items():
        details: dict[str, Any] = {"bytes": found["metrics"]["bundle.bytes"]}
        if epochs := run.recipe.all_teachers[role].checkpoints:
            details["checkpoints"] = list(epochs)
        lineage.append(("teacher", found["version"], details))
    lineage += _common(run)
    for part in run.recipe.distil.strategies:
        weight = part.weight if isinstance(part.weight, float) else part.weight.model_dump()
        lineage.append(("strategy", part.name, {"weight": weight, "options": part.options}))
        lineage.append(_plugin(run, "strategies", part.name))
    lineage.append(_plugin(run, "students", run.recipe.student.name))
    if run.recipe.student.start_from:
        lineage.append(("start", run.recipe.student.start_from, {}))
    if run.recipe.prune is not None:
        lineage.append(("prune", f"{run.recipe.prune.share:g} of the hidden units", {}))
    if run.recipe.quantise is not None:
        lineage.append(("quantise", "8 bits", {}))
    distinct = [entry for place, entry in enumerate(lineage) if entry not in lineage[:place]]
    return _register(run, run.recipe.student.register_as, folder, trained, metrics, distinct, run.features["student"].to_json())


def fetch_teacher(run: Run, role: str) -> dict[str, Any]:
    """Take a registered model as a teacher of this run, with its own transform; it may come from another snapshot.

    Raise ConfigError unless it answers this task, is the model that the recipe names, and reads the service as it is.
    """
    part = run.recipe.all_teachers[role]
    with run.platform.registry.read() as session:
        version = find_version(session, part.version)
    folder = run.platform.artifacts.get(version.artifact)
    manifest = open_bundle(folder)
    problems = []
    if manifest.task.name != run.task.spec.name:
        problems.append(f"{role}.version: {part.version} answers task {manifest.task.name}, not {run.task.spec.name}")
    if (manifest.model, manifest.options) != (part.name, part.options):
        problems.append(f"{role}: {part.version} is a {manifest.model} with options {manifest.options}")
    if manifest.fingerprint != run.features[role].fingerprint:
        problems.append(f"{role}.features: {part.version} reads {manifest.feature_service} as it was, not {part.features}")
    if problems:
        raise ConfigError(f"Recipe {run.name!r}", problems)
    if reads_columns(run.factory(role)):
        unpack_columns(run, role, folder)
    else:
        run.rows.adopted[role] = Transform.load(folder)
        save_file(load_weights(folder), run.weights(role))
    return {
        "version": f"{version.model_name}:{version.number}",
        "metrics": version.measured,
        "bundle": str(folder),
        "num_parameters": version.num_parameters,
    }


def start_weights(run: Run, role: str, reference: str) -> dict[str, Any]:
    """Return the weights of a registered version to start from, and take its transform for the role.

    Raise ConfigError if it answers another task, is another model, or reads other features.
    """
    with run.platform.registry.read() as session:
        version = find_version(session, reference)
    folder = run.platform.artifacts.get(version.artifact)
    manifest = open_bundle(folder)
    if (manifest.task.name, manifest.model, manifest.fingerprint) != (
        run.task.spec.name, run.recipe.part(role).name, run.features[role].fingerprint,
    ):  # fmt: skip
        raise ConfigError(f"Recipe {run.name!r}", [
            f"{role}.start_from: {reference} is a {manifest.model} of task {manifest.task.name} on {manifest.feature_service}"
        ])  # fmt: skip
    if role not in run.rows.adopted:
        run.rows.adopted[role] = Transform.load(folder)
        run.rows.forget(role)
    return load_weights(folder)


def _baselines(run: Run) -> dict[str, dict[str, float]]:
    """What the run's baselines reached, as far as they are trained yet: a student is judged beside them."""
    stages = {name: f"baseline-{name}" for name in run.recipe.baselines}
    return {
        name: numbers_of(read_json(run.folder / "state" / f"{stage}.json")["metrics"])
        for name, stage in stages.items()
        if run.is_done(stage)
    }


def _common(run: Run) -> Lineage:
    return [
        ("snapshot", run.snapshot.id, {"sha256": run.snapshot.meta["sha256"]}),
        ("dataset", run.snapshot.meta["dataset"]["name"], dict(run.snapshot.meta["dataset"])),
        _plugin(run, "tasks", run.recipe.task),
    ]


def _plugin(run: Run, kind: str, name: str) -> tuple[str, str, dict[str, Any]]:
    distribution, version, digest = run.platform.plugin_of(kind, name)
    return "plugin", f"{distribution}=={version}", {"digest": digest}


def _register(
    run: Run,
    model: str,
    folder: Path,
    trained: dict[str, Any],
    metrics: Mapping[str, Measured],
    lineage: Lineage,
    features: dict[str, Any],
) -> str:
    with run.platform.registry.transaction() as session:  # known before it is stored: what is never registered can be collected
        record_artifact(session, sha256_of(folder / MANIFEST), bundle_size(folder))
    run.platform.artifacts.put(folder)  # before the transaction, so that nobody waits for the upload
    with run.platform.registry.transaction() as session:
        digest = run.platform.artifacts.put(folder)  # again, at no cost unless it was collected as garbage meanwhile
        new = NewVersion(
            model=model,
            task=run.task.spec.name,
            run_id=run.id,
            artifact=digest,
            size_bytes=bundle_size(folder),
            num_parameters=trained["num_parameters"],
            feature_set=record_feature_set(session, features),
            metrics=metrics,
            lineage=lineage,
            baselines=_baselines(run),
        )
        version = add_version(run.platform.registry, session, new)
        return f"{version.model_name}:{version.number}"
