"""Snapshots: rows of a task, with features as they were at each row's moment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import ValidationError

import recstill
from recstill.api.errors import ConfigError, DataError, IntegrityError
from recstill.api.task import FeatureSpec
from recstill.data.arrow import check_columns
from recstill.data.code import code_of, digest_of_tree, files_behind, files_in
from recstill.data.fetch import open_raw, raw_digests
from recstill.data.files import read_card
from recstill.data.snapshot import Snapshot, open_snapshot, write_snapshot
from recstill.features.featureset import FeatureSet
from recstill.pipeline.inputs import Inputs, in_short
from recstill.pipeline.journal import Journal
from recstill.recipes.features import (
    BUILT,
    build_sources,
    damaged_sources,
    ensure_features,
    holding_sources,
    open_store,
    write_training_sources,
)
from recstill.recipes.label_checks import unknown_labels
from recstill.recipes.mixing import with_mixed
from recstill.recipes.reviews import reviews_digest, with_reviews
from recstill.recipes.row_checks import check_names, check_rows
from recstill.registry.runs import record_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from recstill.api.task import Dataset, Task, TaskSpec
    from recstill.recipes.config import MixedConfig
    from recstill.recipes.platform import Platform


NO_SERVICE = "none"
_OWN = ("key", "context", "row")
# What only people read of a task's description.
_WORDS: Any = {
    "description": True, "default_recipe": True, "case": True, "gates": True,
    "labels": {"__all__": {"description"}}, "features": {"__all__": {"title"}},
}  # fmt: skip


def feature_set_of(platform: Platform, service: str) -> FeatureSet:
    """Return the features of an applied service; `none` for tasks whose rows bring all they need."""
    if service == NO_SERVICE:
        return FeatureSet(NO_SERVICE, ())
    from recstill.features.repo import feature_set

    return feature_set(open_store(platform), service)


def make_snapshot(
    platform: Platform,
    task: Task,
    options: Mapping[str, Any],
    service: str,
    say: Callable[[str], None],
    mixed: MixedConfig | None = None,
) -> Snapshot:
    """Build, join and store the training table of a task with the features of a service, and rows mixed from it.

    Raise DataError if what decides the rows changed while they were made.
    """
    try:
        chosen = task.options.model_validate(options)
    except ValidationError as error:
        raise ConfigError(f"Options of task {task.spec.name!r}", [f"{e['loc']}: {e['msg']}" for e in error.errors()]) from error
    dataset = platform.dataset_of(task)
    raw = open_raw(dataset, platform.settings.cache)
    build_sources(platform, dataset)
    if service != NO_SERVICE:
        ensure_features(platform, say)
    features = feature_set_of(platform, service)
    inputs = snapshot_inputs(platform, task, chosen, service, mixed)
    say("building rows")
    rows = _rows(task, raw, chosen, dataset)
    check_names(rows.column_names, task.spec, features.features)
    unknown = unknown_labels(task.spec.primary, rows)
    rows, reviewed = with_reviews(platform, task.spec, rows)
    check_rows(rows, task.spec)
    if reviewed:
        say(f"{reviewed:,} rows without an outcome take the label that a person decided")
    joined = rows
    if features.views:
        joined = _joined(platform, task, raw, rows, features, say)
    if mixed is not None:
        joined = with_mixed(joined, task.spec, mixed)
    meta = {
        "task": task.spec.name,
        "dataset": {**_dataset_facts(dataset), "content": _content_of(platform, dataset)},
        "options": chosen.model_dump(mode="json"),
        "features": features.to_json(),
        "labels": [label.name for label in task.spec.labels],
        "sampling": "column sampling_rate",
        "mixed": None if mixed is None else mixed.model_dump(),
        "unknown": unknown,
        "reviews": reviews_digest(platform, task.spec) if unknown else "",
    }
    check_columns(joined, _read_columns(task.spec, features), "The rows")
    if words := snapshot_inputs(platform, task, chosen, service, mixed).changes_since(inputs):
        raise DataError(f"While the rows of task {task.spec.name!r} were made, {in_short(words)}. Call it again.")
    snapshot = write_snapshot(joined, meta, platform.settings.folder("snapshots"))
    with platform.registry.transaction() as session:
        record_snapshot(session, snapshot.meta)
        platform.registry.audit(session, "snapshot.add", snapshot.id, rows=len(joined), service=service)
    _journal(platform).keep(_kind(task), inputs, "", {"snapshot": snapshot.id}, {})
    return snapshot


def _joined(
    platform: Platform, task: Task, raw: Path, rows: pa.Table, features: FeatureSet, say: Callable[[str], None]
) -> pa.Table:
    """Return the rows with their features. Raise IntegrityError for sources that are not as they were built."""
    from recstill.features.history import join_features

    with holding_sources(platform, task.spec.dataset, say):
        write_training_sources(platform, task, raw, rows)
        say(f"joining {len(rows):,} rows with {len(features.features)} features of {features.service}, point in time")
        store = open_store(platform)
        for problem in damaged_sources(store, [view.name for view in features.views]).values():
            raise IntegrityError(problem)
        return join_features(store, rows, features, task.spec.derived_keys)


def _read_columns(spec: TaskSpec, features: FeatureSet) -> list[FeatureSpec]:
    """The features that the rows hold, and the ids of a request, which are categories whether a model reads them or not."""
    found = [f for f in spec.features if f.view in _OWN or f.name in features.features]
    keys = {spec.endpoint.query_key, spec.endpoint.item_key} - {"", *(f.name for f in found)}
    return found + [FeatureSpec(name=key, view="key", kind="categorical") for key in sorted(keys)]


def _rows(task: Task, raw: Path, options: BaseModel, dataset: Dataset) -> pa.Table:
    """Return a task's rows. Raise DataError if the files lack a column that it reads."""
    try:
        rows = task.rows(raw, options)
    except (KeyError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(
            f"The files of data set {dataset.name!r} in {raw} are not what task {task.spec.name!r} reads: no column {error}. "
            f"Delete that folder and bring the right files: `recstill data fetch {dataset.name} --from FOLDER`."
        ) from error
    if not isinstance(rows, pa.Table):
        raise DataError(f"Task {task.spec.name!r} made a {type(rows).__name__} of rows; `rows` returns a pyarrow.Table.")
    return rows


def _content_of(platform: Platform, dataset: Dataset) -> str:
    """One digest of all files: a brought data set has no other name for what it is."""
    return Inputs({"files": raw_digests(dataset, platform.settings.cache)}).key


def _dataset_facts(dataset: Dataset) -> dict[str, str]:
    return {"name": dataset.name, "version": dataset.version, "sha256": dataset.sha256}


def snapshot_for(
    platform: Platform,
    task: Task,
    options: Mapping[str, Any],
    service: str,
    say: Callable[[str], None],
    mixed: MixedConfig | None = None,
) -> Snapshot:
    """Return the snapshot of these options, files, code, applied features and mixed rows, made now if there is none."""
    chosen = task.options.model_validate(options)
    open_raw(platform.dataset_of(task), platform.settings.cache)
    inputs = snapshot_inputs(platform, task, chosen, service, mixed)
    root, journal = platform.settings.folder("snapshots"), _journal(platform)
    try:
        record = journal.find(_kind(task), inputs)
    except IntegrityError as error:
        say(f"the record of a snapshot was damaged: {error}")
        journal.forget(_kind(task), inputs)
        record = None
    if record is not None and (root / record.result["snapshot"]).is_dir():
        return open_snapshot(record.result["snapshot"], root)
    if record is not None:
        journal.forget(_kind(task), inputs)
    near = journal.nearest(_kind(task), inputs)
    earlier = [path.name for path in root.glob(f"{task.spec.name}-*")]
    if near is not None:
        say(f"a new snapshot: {in_short(near[1])}")
    elif earlier:
        say(f"a new snapshot: what decided {', '.join(sorted(earlier)[:3])} was not kept")
    snapshot = make_snapshot(platform, task, options, service, say, mixed)
    if snapshot.id in earlier:
        say(f"its rows are those of {snapshot.id}")
    return open_snapshot(snapshot.id, root)


def snapshot_inputs(platform: Platform, task: Task, chosen: BaseModel, service: str, mixed: MixedConfig | None) -> Inputs:
    """What decides the rows: the data set's files, the task and its code, options, features as they are defined, reviews."""
    dataset = platform.dataset_of(task)
    owners = {platform.catalog("tasks").owner(task.spec.name), platform.catalog("datasets").owner(dataset.name)}
    parts = {
        "task": task.spec.model_dump(mode="json", exclude=_WORDS),
        "options": chosen.model_dump(mode="json"),
        "files": files_in(chosen.model_dump(mode="json"), "data"),
        "data": raw_digests(dataset, platform.settings.cache),
        "code": {owner: code_of(platform.plugins.get(owner).code, owner) for owner in owners},
        "task's code": {**files_behind(task), **_own_code()},
        "features": _defined(platform, service),
        "mixed": None if mixed is None else mixed.model_dump(mode="json"),
        "reviews": reviews_digest(platform, task.spec),
    }
    return Inputs(parts)


def _own_code() -> dict[str, str]:
    """The digest of the parts of recstill that make rows."""
    package = Path(recstill.__file__).parent
    places = ("recipes/data.py", "recipes/mixing.py", "recipes/reviews.py", "features", "data")
    return {place: digest_of_tree(package / place) for place in places}


def _defined(platform: Platform, service: str) -> dict[str, Any]:
    if service == NO_SERVICE:
        return {"service": NO_SERVICE}
    from recstill.features.defined import definitions_of

    features = feature_set_of(platform, service)
    built = {
        path.parent.name: read_card(path).get("key", "") for path in platform.settings.folder("sources").glob(f"*/{BUILT}")
    }
    views = definitions_of(open_store(platform), features, platform.settings.home)
    read = {name for view in views.values() for name in built if f"sources/{name}/" in view["sources"]}
    return {
        "service": features.fingerprint,
        "views": {name: view["definition"] for name, view in views.items()},
        "sources": {name: built[name] for name in read},
    }


def _journal(platform: Platform) -> Journal:
    return Journal(platform.settings.folder("cache", "journal"))


def _kind(task: Task) -> str:
    return f"{task.spec.name}/snapshot"
