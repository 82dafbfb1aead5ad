"""Registered versions that a run takes: resolved once, compared with the task, adopted with their own transform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from recstill.api.errors import UnknownNameError
from recstill.data.bundle import open_bundle
from recstill.data.transform import Transform
from recstill.export.graph import load_weights
from recstill.pipeline.inputs import Inputs, in_short
from recstill.recipes.columns import reads_columns, unpack_columns
from recstill.recipes.rules import read_rules
from recstill.registry.runs import get_run
from recstill.registry.versions import find_version

if TYPE_CHECKING:
    from recstill.api.task import TaskSpec
    from recstill.data.bundle import Manifest
    from recstill.recipes.config import ModelConfig, Recipe
    from recstill.recipes.platform import Platform
    from recstill.recipes.run import Run

_WORDS = {"title"}


def resolve(platform: Platform, recipe: Recipe) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe with every alias as the version that it points at now, and the rules of its file; and what stood there.

    What an alias or a file says later does not change a run that has begun.
    """
    asked: dict[str, str] = {}

    def fixed(role: str, part: Any) -> Any:
        named = {name: getattr(part, name) for name in ("version", "start_from") if getattr(part, name, "")}
        found = {name: exact_name(platform, reference) for name, reference in named.items()}
        asked.update({f"{role}.{name}": named[name] for name in named if named[name] != found[name]})
        return part.model_copy(update=found)

    parts = {role: fixed(role, part) for role, part in recipe.all_teachers.items()}
    if isinstance(recipe.rules, str):
        asked["rules"] = recipe.rules
    update = {
        "teacher": parts.pop("teacher"),
        "teachers": tuple(parts.values()),
        "student": fixed("student", recipe.student),
        "rules": read_rules(recipe.rules),
    }
    return recipe.model_copy(update=update), asked


def exact_name(platform: Platform, reference: str) -> str:
    """Return NAME:N of what a reference points at."""
    with platform.registry.read() as session:
        version = find_version(session, reference)
    return f"{version.model_name}:{version.number}"


def artifact_of(platform: Platform, reference: str) -> str:
    """Return the digest of a version's artifact."""
    with platform.registry.read() as session:
        return find_version(session, reference).artifact


def artifacts_of(platform: Platform, recipe: Recipe) -> dict[str, str]:
    """Return {role or role.start_from: artifact} of the versions that a resolved recipe names."""
    found = {}
    for role, part in [*recipe.all_teachers.items(), ("student", recipe.student)]:
        named = {role: getattr(part, "version", ""), f"{role}.start_from": part.start_from}
        for place, reference in named.items():
            if reference:
                found[place] = artifact_of(platform, reference)
    return found


def registered_problems(run: Run) -> list[str]:
    """Compare every registered version that the recipe names with the task in all that its answers depend on."""
    problems = []
    for role, teacher in run.recipe.all_teachers.items():
        if teacher.version:
            manifest = open_bundle(run.platform.artifacts.get(run.artifacts[role]))
            if (manifest.model, manifest.options) != (teacher.name, teacher.options):
                problems.append(f"{role}: {teacher.version} is a {manifest.model} with options {manifest.options}")
            problems += _misfits(run, role, f"{role}.version", teacher.version, manifest)
            problems += _other_sampling(run, role, teacher, manifest)
    for role in ("student", *run.recipe.all_teachers):
        part = run.recipe.part(role)
        if part.start_from:
            place = f"{role}.start_from"
            manifest = open_bundle(run.platform.artifacts.get(run.artifacts[place]))
            if manifest.model != part.name:
                problems.append(f"{place}: {part.start_from} is a {manifest.model}, not a {part.name}")
            problems += _misfits(run, role, place, part.start_from, manifest)
    return problems


def fetch_teacher(run: Run, role: str) -> dict[str, Any]:
    """Take a registered model as a teacher of this run, with its own transform; it may come from another snapshot."""
    part = run.recipe.all_teachers[role]
    with run.platform.registry.read() as session:
        version = find_version(session, part.version)
    folder = run.platform.artifacts.get(run.artifacts[role])
    open_bundle(folder)
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


def start_weights(run: Run, role: str) -> dict[str, Any]:
    """Return the weights of the registered version that a role starts from, and take its transform for the role."""
    folder = run.platform.artifacts.get(run.artifacts[f"{role}.start_from"])
    open_bundle(folder)
    if role not in run.rows.adopted:
        run.rows.adopted[role] = Transform.load(folder)
        run.rows.forget(role)
    return load_weights(folder)


def adopt_all(run: Run) -> None:
    """Take the transform of every registered version: a resumed run may train nothing, and must encode rows all the same."""
    for role, part in run.recipe.all_teachers.items():
        if part.version and role not in run.rows.adopted:
            fetch_teacher(run, role)
    for role in ("student", *run.recipe.all_teachers):
        if run.recipe.part(role).start_from:
            start_weights(run, role)


def is_registered(run: Run, reference: str, artifact: str) -> bool:
    """Say whether a version is in the registry as it was, and its artifact in the store: in a registry that was made anew,
    the name and the number may be another model's."""
    try:
        with run.platform.registry.read() as session:
            version = find_version(session, reference)
    except UnknownNameError:
        return False
    return version.artifact == artifact and run.platform.artifacts.has(artifact)


def _misfits(run: Run, role: str, place: str, reference: str, manifest: Manifest) -> list[str]:
    spec, own = manifest.task, run.task.spec
    if spec.name != own.name:
        return [f"{place}: {reference} answers task {spec.name}, not {own.name}"]
    problems = []
    if _labels(spec) != _labels(own):
        words = in_short(Inputs({"label": _labels(own)}).changes_since(Inputs({"label": _labels(spec)}))) or "another order"
        problems.append(
            f"{place}: {reference} answers other labels than the task has now ({words}); train one for these labels"
        )
    if manifest.fingerprint != run.features[role].fingerprint:
        service = run.recipe.part(role).features
        problems.append(f"{role}.features: {reference} reads {manifest.feature_service} as it was, not {service}")
        return problems
    read, seen = _read_by(manifest), {feature.name: feature for feature in run.rows.features(role)}
    if set(read) != set(seen):
        words = ", ".join(sorted(set(read) ^ set(seen)))
        problems.append(f"{place}: {reference} reads {', '.join(sorted(read))}; it and the {role} differ in {words}")
        return problems
    before = {name: feature.model_dump(mode="json", exclude=_WORDS) for name, feature in read.items()}
    now = {name: feature.model_dump(mode="json", exclude=_WORDS) for name, feature in seen.items()}
    if words_of := Inputs({"feature": now}).changes_since(Inputs({"feature": before})):
        problems.append(f"{place}: {reference} reads the task's features as they were ({in_short(words_of)}); train a new one")
    return problems


def _other_sampling(run: Run, role: str, part: ModelConfig, manifest: Manifest) -> list[str]:
    """A teacher of fewer negatives speaks of other probabilities: the recipe must say so, or nothing corrects them."""
    with run.platform.registry.read() as session:
        try:
            config = get_run(session, manifest.run).config
        except UnknownNameError:
            return []  # it came from another registry, which alone knows how it was trained
    trained = config["teachers"][int(manifest.role[8:]) - 2] if manifest.role[8:] else config.get(manifest.role, {})
    rate = trained.get("keep_negatives", 1.0)
    if rate == part.keep_negatives:
        return []
    return [f"{role}.keep_negatives: it was trained on {rate:g} of the negatives; write that, not {part.keep_negatives:g}"]


def _labels(spec: TaskSpec) -> list[dict[str, Any]]:
    """What an answer means: the labels in their order, without what only training reads."""
    found = []
    for label in spec.labels:
        classes = label.num_classes if label.kind == "multiclass" else 1
        found.append({"name": label.name, "kind": label.kind, "classes": classes, "graded": label.graded})
    return found


def _read_by(manifest: Manifest) -> dict[str, Any]:
    sides = manifest.sides
    names = {*sides.query, *(name for group in sides.groups for name in group)}
    return {feature.name: feature for feature in manifest.task.features if feature.name in names}
