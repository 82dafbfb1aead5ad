"""Write the versions of a run into the registry, with their lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recstill.api.measured import numbers_of
from recstill.data.bundle import MANIFEST, bundle_size
from recstill.data.files import read_json, sha256_of
from recstill.registry.known import record_artifact
from recstill.registry.runs import record_feature_set
from recstill.registry.versions import NewVersion, add_version

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
        details: dict[str, Any] = {"bytes": found["metrics"]["bundle.bytes"], **_asked(run, f"{role}.version")}
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
        lineage.append(("start", run.recipe.student.start_from, _asked(run, "student.start_from")))
    if run.recipe.prune is not None:
        lineage.append(("prune", f"{run.recipe.prune.share:g} of the hidden units", {}))
    if run.recipe.quantise is not None:
        lineage.append(("quantise", "8 bits", {}))
    distinct = [entry for place, entry in enumerate(lineage) if entry not in lineage[:place]]
    return _register(run, run.recipe.student.register_as, folder, trained, metrics, distinct, run.features["student"].to_json())


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


def _asked(run: Run, place: str) -> dict[str, str]:
    """The alias that stood in the recipe, where it was one."""
    return {"asked": run.asked[place]} if place in run.asked else {}


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
