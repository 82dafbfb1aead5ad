"""Snapshots: rows of a task, with features as they were at each row's moment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import ValidationError

from recstill.api.errors import ConfigError, DataError, IntegrityError
from recstill.api.task import FeatureSpec
from recstill.data.arrow import check_columns
from recstill.data.fetch import open_raw
from recstill.data.snapshot import Snapshot, open_card, open_snapshot, write_snapshot
from recstill.features.featureset import FeatureSet
from recstill.recipes.config import MixedConfig
from recstill.recipes.features import (
    build_sources,
    damaged_sources,
    ensure_features,
    open_store,
    write_training_sources,
)
from recstill.recipes.label_checks import unknown_labels
from recstill.recipes.mixing import with_mixed
from recstill.recipes.reviews import reviews_digest, with_reviews
from recstill.recipes.row_checks import check_names, check_rows
from recstill.registry.runs import list_snapshots, record_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from recstill.api.task import Dataset, Task, TaskSpec
    from recstill.recipes.platform import Platform


NO_SERVICE = "none"
_OWN = ("key", "context", "row")


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
    """Build, join and store the training table of a task with the features of a service, and rows mixed from it."""
    from recstill.features.history import join_features

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
        write_training_sources(platform, task, raw, rows)
        say(f"joining {len(rows):,} rows with {len(features.features)} features of {service}, point in time")
        store = open_store(platform)
        for problem in damaged_sources(store, [view.name for view in features.views]).values():
            raise IntegrityError(problem)
        joined = join_features(store, rows, features, task.spec.derived_keys)
    if mixed is not None:
        joined = with_mixed(joined, task.spec, mixed)
    meta = {
        "task": task.spec.name,
        "dataset": _dataset_facts(dataset),
        "options": chosen.model_dump(mode="json"),
        "features": features.to_json(),
        "labels": [label.name for label in task.spec.labels],
        "sampling": "column sampling_rate",
        "mixed": None if mixed is None else mixed.model_dump(),
        "unknown": unknown,
        "reviews": reviews_digest(platform, task.spec) if unknown else "",
    }
    check_columns(joined, _read_columns(task.spec, features), "The rows")
    snapshot = write_snapshot(joined, meta, platform.settings.folder("snapshots"))
    with platform.registry.transaction() as session:
        record_snapshot(session, snapshot.meta)
        platform.registry.audit(session, "snapshot.add", snapshot.id, rows=len(joined), service=service)
    return snapshot


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


def is_current(platform: Platform, task: Task, snapshot_id: str) -> bool:
    """Say whether a snapshot was made of the data set as it is offered now, and has the columns that the task reads now."""
    folder = platform.settings.home / "snapshots" / snapshot_id
    if not (folder / "snapshot.json").is_file():
        return False
    meta, spec = open_card(folder), task.spec
    read = {feature.name for feature in spec.features if feature.view in ("key", "context", "row")}
    read |= {label.name for label in spec.labels} | set(spec.attributes)
    if meta["dataset"] != _dataset_facts(platform.dataset_of(task)) or not read <= set(meta["columns"]):
        return False
    return not meta.get("unknown") or meta["reviews"] == reviews_digest(platform, spec)


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
    """Return the snapshot of these options, applied features and mixed rows, made now if there is none."""
    wanted = json.dumps(task.options.model_validate(options).model_dump(mode="json"), sort_keys=True)
    fingerprint = feature_set_of(platform, service).fingerprint
    root = platform.settings.folder("snapshots")
    with platform.registry.read() as session:
        known = list_snapshots(session, task.spec.name)
    for row in known:
        same = json.dumps(row.options, sort_keys=True) == wanted and row.fingerprint == fingerprint
        if same and (root / row.id).is_dir() and is_current(platform, task, row.id) and _mixed_of(root / row.id) == mixed:
            return open_snapshot(row.id, root)
    return make_snapshot(platform, task, options, service, say, mixed)


def _mixed_of(folder: Path) -> MixedConfig | None:
    found = open_card(folder).get("mixed")
    return None if found is None else MixedConfig.model_validate(found)
