"""Show and make the changes that the definitions ask for, as `feast apply` makes them, but for what it would delete.

Feast deletes everything that is not defined. Here only what recstill itself created is deleted, and only what was named:
it carries the tag `managed_by: recstill`, set when it is created and never added to an object that was there before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feast.diff.property_diff import TransitionType
from feast.diff.registry_diff import diff_between, extract_objects_for_keep_delete_update_add
from feast.errors import FeastError
from feast.infra.registry.registry import FeastObjectType

from recstill.api.errors import FeatureError
from recstill.features.checks import check_definitions
from recstill.features.offline import file_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from feast import FeatureStore
    from feast.repo_contents import RepoContents

_TAG, _TAGGED = "managed_by", "recstill"
# A permission, a label view or a project that is gone from the files may guard or hold what others rely on.
_DUMMY = "__dummy"  # the entity that Feast adds to every repository
_KEPT = ("project", "permission", "label_view")
_VIEWS = ("feature_view", "stream_feature_view")


@dataclass(frozen=True)
class Change:
    """One difference between the definitions and what is applied."""

    action: str
    kind: str
    name: str
    details: str
    used_by: str = ""


def plan(store: FeatureStore, contents: RepoContents, *, partial: bool = False) -> list[Change]:
    """Return what `apply` would change; nothing is written. Raise FeatureError for definitions that cannot be served.

    partial: the contents are some of the definitions, so what is missing from them is not to be deleted.
    """
    check_definitions(contents)
    contents = _marked(store, contents)
    try:
        registry_diff, _, _ = store.plan(contents)
    except (FeastError, ValueError) as error:
        raise FeatureError(f"Feast refuses the feature definitions: {error}") from error
    changes = [_change(diff) for diff in registry_diff.feast_object_diffs if _counts(diff, partial)]
    return [change for change in changes if change.action != "unchanged" and change.kind != "project"]


def left_alone(store: FeatureStore, contents: RepoContents) -> list[str]:
    """Name what is applied, is not defined here, and is not recstill's to delete."""
    diffs = diff_between(store.registry, store.project, contents).feast_object_diffs
    gone = [diff for diff in diffs if diff.transition_type == TransitionType.DELETE and not _is_ours(diff)]
    return sorted(f"{_kind(diff)} {diff.name}" for diff in gone if diff.name != _DUMMY and _kind(diff) != "project")


def elsewhere(store: FeatureStore, contents: RepoContents) -> dict[str, Path]:
    """Return the views whose applied source is another file than the defined one, with the applied file."""
    repo = store.config.repo_path
    defined = {view.name: file_of(view.batch_source, repo) for view in contents.feature_views}
    applied = {view.name: file_of(view.batch_source, repo) for view in store.list_feature_views()}
    return {name: file for name, file in applied.items() if file is not None and defined.get(name, file) != file}


def apply(
    store: FeatureStore,
    contents: RepoContents,
    delete: Collection[tuple[str, str]] | None = None,
    *,
    partial: bool = False,
) -> list[Change]:
    """Apply the definitions and return what changed.

    delete: kind and name of what may be deleted; everything that a plan of now would delete if None.
    """
    changes = plan(store, contents, partial=partial)
    gone = {(change.kind, change.name) for change in changes if change.action == "delete"}
    agreed = gone if delete is None else gone & set(delete)
    changes = [c for c in changes if c.action != "delete" or (c.kind, c.name) in agreed]
    contents = _marked(store, contents)
    if store._should_use_plan():
        _apply_plan(store, contents, agreed)
    else:
        _apply_objects(store, contents, agreed)
    store.refresh_registry()
    return changes


def _apply_plan(store: FeatureStore, contents: RepoContents, agreed: Collection[tuple[str, str]]) -> None:
    """Apply as Feast does for SQLite, where the plan holds the tables, and keep every table of what is left alone."""
    registry_diff, infra_diff, infra = store.plan(contents)
    registry_diff.feast_object_diffs = [
        diff
        for diff in registry_diff.feast_object_diffs
        if diff.transition_type != TransitionType.DELETE or (_kind(diff), diff.name) in agreed
    ]
    dropped = {f"{store.project}_{name}" for kind, name in agreed if kind in _VIEWS}
    wanted = {item.name for item in infra.infra_objects}
    kept = [item for item in store.registry.get_infra(store.project).infra_objects if item.name not in wanted | dropped]
    here = store.provider.online_store._get_db_path(store.config)
    for item in kept:
        item.path = here
    infra.infra_objects += kept
    infra_diff.infra_object_diffs = [
        diff for diff in infra_diff.infra_object_diffs if diff.transition_type != TransitionType.DELETE or diff.name in dropped
    ]
    for diff in infra_diff.infra_object_diffs:
        if diff.transition_type == TransitionType.UPDATE:
            # The home was copied or moved. feast 0.67 would drop the tables at the old place, which may still be in use,
            # and not make them at the new one.
            diff.transition_type = TransitionType.CREATE
        elif diff.transition_type == TransitionType.DELETE:
            diff.current_infra_object.path = here  # the applied one may be that of the home this was copied from
    store._apply_diffs(registry_diff, infra_diff, infra)


def _apply_objects(store: FeatureStore, contents: RepoContents, agreed: Collection[tuple[str, str]]) -> None:
    """Apply as Feast does for every other online store: it makes the tables itself."""
    _, gone, changed, new = extract_objects_for_keep_delete_update_add(store.registry, store.project, contents)
    to_apply = [thing for group in (new, changed) for things in group.values() for thing in things]
    to_delete = [thing for kind, things in gone.items() for thing in things if (kind.name.lower(), thing.name) in agreed]
    store.apply(to_apply, objects_to_delete=to_delete, partial=False)


def _marked(store: FeatureStore, contents: RepoContents) -> RepoContents:
    """Return a copy whose objects carry our tag if they are new, or if they carry it already.

    A copy, because Feast's inference changes what it plans, and a second plan of the same objects fails.
    """
    contents = copy.deepcopy(contents)
    applied = FeastObjectType.get_objects_from_registry(store.registry, store.project)
    for kind, things in FeastObjectType.get_objects_from_repo_contents(contents).items():
        known = {thing.name: thing for thing in applied[kind]}
        for thing in things:
            if kind.name.lower() in _KEPT or thing.name == _DUMMY:
                continue
            if thing.name not in known or dict(known[thing.name].tags).get(_TAG) == _TAGGED:
                thing.tags = {**thing.tags, _TAG: _TAGGED}
    return contents


def _kind(diff: Any) -> str:
    return str(diff.feast_object_type.name.lower())


def _is_ours(diff: Any) -> bool:
    tags = dict(getattr(diff.current_feast_object, "tags", None) or {})
    return _kind(diff) not in _KEPT and tags.get(_TAG) == _TAGGED


def _counts(diff: Any, partial: bool) -> bool:
    if diff.transition_type == TransitionType.DELETE:
        return not partial and _is_ours(diff)
    return bool(diff.name != _DUMMY)


def _change(diff: Any) -> Change:
    words = {TransitionType.CREATE: "create", TransitionType.UPDATE: "update", TransitionType.DELETE: "delete"}
    differences = [p for p in diff.feast_object_property_diffs or () if _plain(p.val_existing) != _plain(p.val_declared)]
    action = words.get(diff.transition_type, "unchanged")
    if action == "update" and not differences:
        action = "unchanged"
    details = "; ".join(p.property_name for p in differences)
    return Change(action, _kind(diff), diff.name, details)


def _plain(value: Any) -> Any:
    """Drop the time of declaration, which differs on every import and means nothing."""
    if hasattr(value, "ClearField") and "meta" in value.DESCRIPTOR.fields_by_name:
        value = type(value).FromString(value.SerializeToString())
        value.ClearField("meta")
    return value
