"""Open the Feast repository and read its definitions."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ibis
from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, StreamFeatureView
from feast.data_source import DataSource
from feast.repo_config import load_repo_config
from feast.repo_contents import RepoContents

from recstill.api.errors import FeatureError, UnknownNameError
from recstill.features.featureset import FeatureSet, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from feast.feast_object import FeastObject

    from recstill.settings import Settings

# feast turns deprecation warnings on for everybody; ibis then reports its own on every query.
warnings.filterwarnings("ignore", category=DeprecationWarning)
# ibis keeps its duckdb connection until after the interpreter is gone, and duckdb then complains on stderr.
atexit.register(setattr, ibis.options, "default_backend", None)


def open_repo(settings: Settings) -> FeatureStore:
    """Open the store that `feature_store.yaml` describes."""
    settings.folder("feast")
    os.environ["RECSTILL_HOME"] = str(settings.home)
    yaml = settings.feature_repo / "feature_store.yaml"
    if not yaml.is_file():
        raise FeatureError(f"{settings.feature_repo} has no feature_store.yaml. Set RECSTILL_FEATURE_REPO.")
    return FeatureStore(config=load_repo_config(settings.feature_repo, yaml))


def definitions(settings: Settings, extra: Sequence[FeastObject] = ()) -> RepoContents:
    """Import the repository's modules afresh and collect their Feast objects, with those that plugins offer."""
    os.environ["RECSTILL_HOME"] = str(settings.home)
    objects: list[Any] = list(extra)
    with _importable(settings.feature_repo):
        for path in sorted(settings.feature_repo.glob("*.py")):
            try:
                module = importlib.import_module(path.stem)
            except Exception as error:
                raise FeatureError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
            objects += vars(module).values()
    kinds = {
        "entities": Entity,
        "feature_services": FeatureService,
        "stream_feature_views": StreamFeatureView,
        "on_demand_feature_views": OnDemandFeatureView,
        "data_sources": DataSource,
    }
    found = {name: _distinct(objects, kind) for name, kind in kinds.items()}
    views = [view for view in _distinct(objects, FeatureView) if not isinstance(view, StreamFeatureView)]
    found["data_sources"] = list({s.name: s for s in [*found["data_sources"], *(v.batch_source for v in views)]}.values())
    return RepoContents(feature_views=views, permissions=[], projects=[], label_views=[], **found)


def feature_set(store: FeatureStore, service: str) -> FeatureSet:
    """Describe an applied feature service."""
    known = {found.name: found for found in store.list_feature_services()}
    if service not in known:
        raise UnknownNameError("feature service", service, known, "Define it in feature_repo/ and `recstill features apply`.")
    views = []
    for projection in known[service].feature_view_projections:
        views.append(_view(store.get_feature_view(projection.name), {f.name: str(f.dtype) for f in projection.features}, store))
    return FeatureSet(service, tuple(views))


def all_views(store: FeatureStore) -> list[View]:
    """Describe every applied view."""
    return [_view(v, {f.name: str(f.dtype) for f in v.features}, store) for v in store.list_feature_views()]


def _view(view: FeatureView, features: dict[str, str], store: FeatureStore) -> View:
    keys = tuple(store.get_entity(name).join_key for name in view.entities)
    tags = dict(view.tags)
    return View(view.name, keys, features, tags.get("availability", "request"), view.owner, tags.get("freshness", ""))


def _distinct(objects: Sequence[Any], kind: type[Any]) -> list[Any]:
    return list({thing.name: thing for thing in objects if isinstance(thing, kind)}.values())


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put the repository on the path, and forget its modules afterwards: the next home must not see this one's paths."""
    names = {path.stem for path in folder.glob("*.py")}
    for name in names:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
