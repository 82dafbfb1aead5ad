"""What each stage of a run reads: everything that decides its result, part by part.

A recipe's or a spec's field counts unless it is named here as one that the stage does not read: a field that comes later is in
the key of every stage from its first day, and at worst something is made anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from recstill.data.code import digest_of_tree, files_in
from recstill.data.fetch import open_raw, raw_digests
from recstill.pipeline.inputs import Inputs
from recstill.recipes.columns import reads_columns
from recstill.training.loop import has_fast_bf16

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import BaseModel

    from recstill.recipes.run import Run

# Of a task: words, what is checked before training, and what the rows or the features' part hold already.
_NOT_IN_TASK: Any = {
    "name": True, "dataset": True, "description": True, "default_recipe": True, "case": True, "auction": True,
    "derived_keys": True, "features": True, "endpoint": True, "gates": True, "labels": {"__all__": {"description"}},
}  # fmt: skip
_ENDPOINT_KEYS = {"query_key", "item_key"}
# Of a model: names, and what its features' part and the version that it starts from say by content.
_NOT_IN_MODEL: Any = {
    "register_as": True, "version": True, "features": True, "without": True, "start_from": True,
    "training": {"checkpoint_steps"},
}  # fmt: skip
_NOT_IN_COLUMN_TEACHER: Any = {
    **_NOT_IN_MODEL, "training": True, "table_dtype": True, "keep_negatives": True, "checkpoints": True,
}  # fmt: skip
_NOT_IN_DISTIL: Any = {"fine_tune": {"checkpoint_steps"}}
# What only a teacher's words, or their absence, make a difference to.
_NOT_ALONE: Any = _NOT_IN_DISTIL | dict.fromkeys(
    ("strategies", "label_weight", "live", "unlabelled", "mixed", "lists", "min_coverage", "max_age_days", "freeze"), True
)
_NOT_IN_RECOVERY: Any = {"recovery": {"checkpoint_steps"}}


def run_inputs(run: Run) -> Inputs:
    """Everything that decides a run as a whole."""
    kinds = {"tasks": [run.recipe.task], "baselines": run.recipe.baselines, "strategies": _strategies(run)}
    kinds |= {"students": [run.recipe.student.name]}
    parts = {
        "recipe": _dump(run.recipe, {"description": True}),
        "task": _dump(run.task.spec, None),
        "rows": run.snapshot.meta["sha256"],
        "services": {role: features.to_json() for role, features in run.features.items()},
        "artifacts": dict(run.artifacts),
        "files": {k: v for role in run.features for k, v in _files(run, role).items()},
        "code": _code(run, {**kinds, "teachers": [part.name for part in run.recipe.all_teachers.values()]}),
    }
    return Inputs(parts, _titles(run))


def pretrain_inputs(run: Run, role: str) -> Inputs:
    """What a teacher is trained on; the first seed is every teacher's."""
    part, kind = run.recipe.part(role), run.kind(role)
    model = _dump(part, _NOT_IN_COLUMN_TEACHER if reads_columns(run.factory(role)) else _NOT_IN_MODEL)
    parts = {"teacher": model, "seed": run.recipe.seeds[0], **_model(run, role), "code": _code(run, {kind: [part.name]})}
    return Inputs(parts)


def baseline_inputs(run: Run, name: str) -> Inputs:
    """A baseline reads the teacher's features as they are."""
    parts = {"baseline": name, "seed": run.recipe.seeds[0], **_rows(run, "teacher"), "code": _code(run, {"baselines": [name]})}
    return Inputs(parts)


def alone_inputs(run: Run, seed: int) -> Inputs:
    """What a student alone is trained on."""
    return Inputs(_student(run, seed, {}, _NOT_ALONE), _titles(run))


def distilled_inputs(run: Run, seed: int, taught: Mapping[str, Any]) -> Inputs:
    """What a student learns from: `taught` says what the teachers told it, by content."""
    kinds = {"strategies": _strategies(run)}
    if run.recipe.distil.live:
        kinds |= {run.kind(role): [part.name] for role, part in run.recipe.all_teachers.items()}
    return Inputs({**_student(run, seed, kinds, _NOT_IN_DISTIL), "taught": dict(taught)}, _titles(run))


def compressed_inputs(run: Run, stage: str, before: str) -> Inputs:
    """A stage that trains a finished student on reads the stage before it, with all that decided that, and its own options."""
    config = getattr(run.recipe, {"pruned": "prune", "quantised": "quantise"}[stage])
    return Inputs({before: run.keys[before], stage: _dump(config, _NOT_IN_RECOVERY)})


def score_inputs(run: Run, role: str, version: str, weights: str) -> Inputs:
    """What a teacher says depends on its weights and on how it is asked."""
    part = run.recipe.part(role)
    label = {label.name: [label.kind, label.num_classes, label.graded] for label in run.task.spec.labels}
    parts = {
        "teacher": {"version": version, "artifact": run.artifacts[role], "weights": weights.partition("@")[2]},
        "labels": label,
        "splits": run.taught_splits,
        "keep_negatives": part.keep_negatives,
        "bf16": part.training.bf16,
        **_rows(run, role),
        "code": _code(run, {run.kind(role): [part.name]}),
    }
    del parts["task"]  # groups and slices judge, and judge no signals
    if run.task.spec.retrieval is not None:
        parts["lists"] = run.recipe.distil.lists.top
    return Inputs(parts)


def exported_inputs(run: Run, role: str, trained: str, taught: Mapping[str, str]) -> Inputs:
    """What a registered version is: trained weights under a name, with the task as its manifest has it."""
    part = run.recipe.part(role)
    parts = {
        "what it was trained on": run.keys[trained],
        "role": role,
        "register_as": part.register_as,
        "task": _dump(run.task.spec, None),
        "gates": run.recipe.gates,
        "service": run.features[role].to_json(),
        "taught by": dict(taught),
        "code": _code(run, {run.kind(role): [part.name]}),
    }
    return Inputs(parts)


def registered_inputs(run: Run, role: str) -> Inputs:
    """A teacher of the registry, judged on this run's rows."""
    part = run.recipe.all_teachers[role]
    parts = {
        "version": part.version, "artifact": run.artifacts[role], **_rows(run, role),
        "code": _code(run, {run.kind(role): [part.name]}),
    }  # fmt: skip
    return Inputs(parts)


def answers_inputs(run: Run, role: str, files: Mapping[str, str]) -> Inputs:
    """What a fitted teacher of columns answers about the test rows; `files` are its own, by content."""
    part = run.recipe.part(role)
    parts = {
        "fitted": dict(files), "options": part.options, **_rows(run, role),
        "code": _code(run, {run.kind(role): [part.name]}),
    }  # fmt: skip
    return Inputs(parts)


def _student(run: Run, seed: int, kinds: Mapping[str, Iterable[str]], not_in_distil: Any) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "student": _dump(recipe.student, _NOT_IN_MODEL),
        "distil": _dump(recipe.distil, not_in_distil),
        "rules": _rules(run),
        "seed": seed,
        **_model(run, "student"),
        "code": _code(run, {"students": [recipe.student.name], **kinds}),
    }


def _model(run: Run, role: str) -> dict[str, Any]:
    starts = run.recipe.part(role).start_from
    start = {"version": starts, "artifact": run.artifacts[f"{role}.start_from"]} if starts else None
    return {**_rows(run, role), "starts from": start, "threads": run.recipe.threads, "files": _files(run, role)}


def _rows(run: Run, role: str) -> dict[str, Any]:
    spec = run.task.spec
    endpoint = spec.endpoint.model_dump(mode="json", include=_ENDPOINT_KEYS)
    return {
        "rows": run.snapshot.meta["sha256"],
        "task": {**_dump(spec, _NOT_IN_TASK), "endpoint": endpoint},
        "features": _features(run, role),
        "hardware": {"bf16": has_fast_bf16()},
    }


def _features(run: Run, role: str) -> dict[str, Any]:
    """A role's own features, and those of other roles that share a table with one: a table is fitted on all of them."""
    seen = {name: _seen(run, name) for name in run.features}
    own = seen[role]
    tables = {spec["table"] or name for name, spec in own.items() if spec["kind"] in ("categorical", "sequence")}
    shared = {
        name: spec for other in seen.values() for name, spec in other.items()
        if name not in own and spec["kind"] in ("categorical", "sequence") and (spec["table"] or name) in tables
    }  # fmt: skip
    return {"service": run.features[role].fingerprint, "own": own, "of shared tables": shared}


def _seen(run: Run, role: str) -> dict[str, dict[str, Any]]:
    without = run.recipe.part(role).without
    chosen = run.features[role].select(run.task.spec)
    return {feature.name: _dump(feature, {"title": True}) for feature in chosen if feature.name not in without}


def _files(run: Run, role: str) -> dict[str, str]:
    """The files that a model's options name, and those of the pretrained models that it says it needs."""
    factory, options = run.factory(role), run.recipe.part(role).options
    found = files_in(options, f"{role}.options")
    if hasattr(factory, "needs"):
        for name in factory.needs(options):
            dataset = run.platform.catalog("datasets")[name]
            open_raw(dataset, run.platform.settings.cache)
            brought = raw_digests(dataset, run.platform.settings.cache)
            found |= {f"{name}: {file}": digest for file, digest in brought.items()}
    if hasattr(factory, "reads_files"):
        found |= {f"{role}: {path.name}": digest_of_tree(path) for path in factory.reads_files(options)}
    return found


def _strategies(run: Run) -> list[str]:
    return [part.name for part in run.recipe.distil.strategies]


def _code(run: Run, kinds: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The digests of recstill and of the plugins that offer these things, as they were when the run began."""
    catalogs = {kind: run.platform.catalog(kind) for kind in kinds}
    owners = {
        catalog.owner(name) for kind, catalog in catalogs.items() for name in kinds[kind] if name in catalog
    }  # fmt: skip
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "torchrec", "numpy")}
    return {"recstill": run.code["recstill"], **libraries, **{name: run.code[name] for name in sorted(owners)}}


def _rules(run: Run) -> dict[str, Any]:
    """The rules, and what they say: one that speaks of now, or of chance, says something else of the same rows another day."""
    rules = [rule if isinstance(rule, str) else _dump(rule, None) for rule in run.recipe.rules]
    made = run.rows.made if rules else {}
    return {"rules": rules, "scores": {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in made.items()}}


def _dump(model: BaseModel, exclude: Any) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude=exclude)


def _titles(run: Run) -> dict[str, str]:
    return {"rules": run.asked["rules"]} if "rules" in run.asked else {}
