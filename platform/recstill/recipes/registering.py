"""Write the versions of a run into the registry, with their lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from recstill.api.errors import ConfigError
from recstill.data.bundle import bundle_size, open_bundle
from recstill.export.graph import load_weights
from recstill.registry.runs import record_feature_set
from recstill.registry.versions import NewVersion, add_version, find_version

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.recipes.run import Run

Lineage = list[tuple[str, str, dict[str, Any]]]


def register_teacher(run: Run, folder: Path, trained: dict[str, Any], metrics: dict[str, float]) -> str:
    """Store and register the teacher of a run."""
    lineage = [*_common(run), _plugin(run, "teachers", run.recipe.teacher.name)]
    return _register(run, run.recipe.teacher.register_as, folder, trained, metrics, lineage, run.teacher_features.to_json())


def register_student(run: Run, folder: Path, trained: dict[str, Any], metrics: dict[str, float], taught: dict[str, Any]) -> str:
    """Store and register the student of a run, a child of its teacher."""
    lineage: Lineage = [("teacher", taught["version"], {"bytes": taught["metrics"]["bundle.bytes"]}), *_common(run)]
    for part in run.recipe.distil.strategies:
        lineage.append(("strategy", part.name, {"weight": part.weight, "options": part.options}))
        lineage.append(_plugin(run, "strategies", part.name))
    lineage.append(_plugin(run, "students", run.recipe.student.name))
    distinct = [entry for place, entry in enumerate(lineage) if entry not in lineage[:place]]
    return _register(run, run.recipe.student.register_as, folder, trained, metrics, distinct, run.student_features.to_json())


def fetch_teacher(run: Run, reference: str) -> dict[str, Any]:
    """Take a registered teacher for this run. Raise ConfigError unless it was made for these rows and features."""
    with run.platform.registry.transaction() as session:
        version = find_version(session, reference)
    folder = run.platform.artifacts.get(version.artifact)
    manifest = open_bundle(folder)
    part = run.recipe.teacher
    problems = []
    if (manifest.model, manifest.options) != (part.name, part.options):
        problems.append(f"teacher.version: {reference} is a {manifest.model} with options {manifest.options}")
    if manifest.snapshot != run.snapshot.id:
        problems.append(f"teacher.version: {reference} was trained on {manifest.snapshot}, this run uses {run.snapshot.id}")
    if problems:
        raise ConfigError(f"Recipe {run.name!r}", problems)
    save_file(load_weights(folder), run.weights("teacher"))
    return {"version": f"{version.model_name}:{version.number}", "metrics": version.metrics, "bundle": str(folder)}


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
    metrics: dict[str, float],
    lineage: Lineage,
    features: dict[str, Any],
) -> str:
    digest = run.platform.artifacts.put(folder)  # stored before any row points at it
    with run.platform.registry.transaction() as session:
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
        )
        version = add_version(run.platform.registry, session, new)
        return f"{version.model_name}:{version.number}"
