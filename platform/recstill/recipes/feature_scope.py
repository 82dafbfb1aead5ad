"""Which views and data sets a command about features works on, and which model versions use what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlmodel import select

from recstill.registry.models import FeatureSetRow, VersionRow
from recstill.registry.versions import feature_set_of, find_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from recstill.api.task import TaskSpec
    from recstill.features.apply import Change
    from recstill.recipes.platform import Platform


@dataclass(frozen=True)
class Scope:
    """The views and data sets that were named; None means all of them."""

    views: frozenset[str] | None = None
    datasets: frozenset[str] | None = None


def scope_of(platform: Platform, views: Iterable[str] = (), tasks: Iterable[str] = (), models: Iterable[str] = ()) -> Scope:
    """Return what views, tasks and model versions (`ads@champion`) need; all there is if none is named.

    Raise UnknownNameError for a task or version that does not exist.
    """
    views, tasks, models = set(views), list(tasks), list(models)
    if not (views or tasks or models):
        return Scope()
    datasets = set()
    for task in tasks:
        views |= _read_by(platform.task(task).spec)
        datasets.add(platform.task(task).spec.dataset)
    with platform.registry.transaction() as session:
        for reference in models:
            version = find_version(session, reference)
            views |= {view["name"] for view in feature_set_of(session, version).content["views"]}
    datasets |= {spec.dataset for spec in _specs(platform) if models and _read_by(spec) & views}
    return Scope(frozenset(views), frozenset(datasets))


def users_of(platform: Platform) -> dict[tuple[str, str], list[str]]:
    """Return the versions that use each (view, feature), and, as (view, "") and ("", service), each view and service."""
    users: dict[tuple[str, str], list[str]] = {}
    for version, content in _sets(platform):
        users.setdefault(("", content["service"]), []).append(version)
        for view in content["views"]:
            for feature in ("", *view["features"]):
                users.setdefault((view["name"], feature), []).append(version)
    return users


def named(platform: Platform, changes: Sequence[Change]) -> list[Change]:
    """Say with each change of a view or service which model versions were made with it."""
    from dataclasses import replace

    users = users_of(platform)
    found = []
    for change in changes:
        key = ("", change.name) if change.kind == "feature_service" else (change.name, "")
        uses = users.get(key, []) if change.action != "create" and change.kind != "entity" else []
        found.append(replace(change, used_by=", ".join(uses)))
    return found


def _sets(platform: Platform) -> Iterator[tuple[str, dict[str, Any]]]:
    with platform.registry.transaction() as session:
        pairs: Sequence[Any] = session.exec(
            select(VersionRow, FeatureSetRow).where(VersionRow.feature_set_id == FeatureSetRow.id)
        ).all()
        rows = [(f"{version.model_name}:{version.number}", feature_set.content) for version, feature_set in pairs]
    yield from rows


def _specs(platform: Platform) -> Iterator[TaskSpec]:
    for name in platform.catalog("tasks"):
        yield platform.task(name).spec


def _read_by(spec: TaskSpec) -> set[str]:
    """Name the views that a task reads, those that only give it a key included."""
    views = {feature.view for feature in spec.features} - {"key", "context", "row", "match"}
    return views | {reference.partition(":")[0] for reference in spec.derived_keys.values()}
