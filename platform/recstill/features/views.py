"""Describe what is applied in our own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recstill.api.errors import FeatureError, UnknownNameError
from recstill.features.featureset import FeatureSet, View

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView


def feature_set(store: FeatureStore, service: str) -> FeatureSet:
    """Describe an applied feature service."""
    known = {found.name: found for found in store.list_feature_services()}
    if service not in known:
        raise UnknownNameError("feature service", service, known, "Define it in feature_repo/ and `recstill features apply`.")
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    views = []
    for projection in known[service].feature_view_projections:
        if projection.name in on_demand:
            raise FeatureError(
                f"Service {service!r} holds the on-demand view {projection.name!r}, which recstill cannot compute when it "
                f"serves. Make a service without it, and compute its features in the source."
            )
        if projection.name_alias or projection.join_key_map:
            raise FeatureError(
                f"Service {service!r} renames view {projection.name!r} (with_name or with_join_key_map), which recstill does "
                f"not read yet. Define a view of its own for each use."
            )
        view = store.get_feature_view(projection.name)
        views.append(view_of(view, store, {field.name: str(field.dtype) for field in projection.features}))
    return FeatureSet(service, tuple(views))


def all_views(store: FeatureStore) -> list[View]:
    """Describe every applied view that has an entity; one without cannot be looked up for a request."""
    return [view_of(view, store) for view in store.list_feature_views() if view.entities]


def view_of(view: FeatureView, store: FeatureStore, features: dict[str, str] | None = None) -> View:
    """Describe a view, or some features of it."""
    features = features or {field.name: str(field.dtype) for field in view.features}
    keys = tuple(store.get_entity(name).join_key for name in view.entities)
    tags = dict(view.tags)
    types = {column.name: str(column.dtype) for column in view.entity_columns if column.name in keys}
    return View(view.name, keys, features, tags.get("availability", "request"), view.owner, tags.get("freshness", ""), types)
