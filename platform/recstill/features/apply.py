"""Show and make the changes that the definitions ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feast.diff.property_diff import TransitionType

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.repo_contents import RepoContents


@dataclass(frozen=True)
class Change:
    """One difference between the definitions and what is applied."""

    action: str
    kind: str
    name: str
    details: str


def plan(store: FeatureStore, contents: RepoContents) -> list[Change]:
    """Return what `apply` would change."""
    registry_diff, _, _ = store.plan(contents)
    changes = [_change(diff) for diff in registry_diff.feast_object_diffs]
    return [change for change in changes if change.action != "unchanged" and change.kind != "project"]


def apply(store: FeatureStore, contents: RepoContents) -> list[Change]:
    """Apply the definitions, deletions included, and return what changed."""
    _check(contents)
    changes = plan(store, contents)
    registry_diff, infra_diff, infra = store.plan(contents)
    for diff in infra_diff.infra_object_diffs:
        if diff.transition_type == TransitionType.UPDATE:
            # The home was copied or moved. feast 0.67 would drop the tables at the old place, which may still be in use,
            # and not make them at the new one.
            diff.transition_type = TransitionType.CREATE
    store._apply_diffs(registry_diff, infra_diff, infra)  # what `feast apply` does; `store.apply` would not delete
    return changes


def _check(contents: RepoContents) -> None:
    seen: dict[str, str] = {}
    problems = []
    for view in contents.feature_views:
        if view.tags.get("availability") not in ("request", "training"):
            problems.append(f"view {view.name!r} needs the tag availability: request or training")
        if view.tags.get("availability") == "training" and view.online:
            problems.append(f"view {view.name!r} is for training only: set online=False")
        for field in view.features:
            if field.name in seen:
                problems.append(f"feature {field.name!r} is in both {seen[field.name]!r} and {view.name!r}")
            seen[field.name] = view.name
    if problems:
        raise FeatureError("The feature definitions have problems:\n" + "\n".join(f"  - {p}" for p in problems))


def _change(diff: Any) -> Change:
    words = {TransitionType.CREATE: "create", TransitionType.UPDATE: "update", TransitionType.DELETE: "delete"}
    differences = [p for p in diff.feast_object_property_diffs or () if _plain(p.val_existing) != _plain(p.val_declared)]
    action = words.get(diff.transition_type, "unchanged")
    if action == "update" and not differences:
        action = "unchanged"
    details = "; ".join(p.property_name for p in differences)
    return Change(action, diff.feast_object_type.name.lower(), diff.name, details)


def _plain(value: Any) -> Any:
    """Drop the time of declaration, which differs on every import and means nothing."""
    if hasattr(value, "ClearField") and "meta" in value.DESCRIPTOR.fields_by_name:
        value = type(value).FromString(value.SerializeToString())
        value.ClearField("meta")
    return value
