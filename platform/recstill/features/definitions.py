"""Read the definitions of a Feast repository, exactly as `feast apply` reads them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feast import BatchFeatureView, Entity, FeatureService, FeatureView, OnDemandFeatureView, Project, StreamFeatureView
from feast.data_source import DataSource, PushSource
from feast.labeling.label_view import LabelView
from feast.permissions.permission import Permission
from feast.repo_config import load_repo_config
from feast.repo_operations import get_repo_files, parse_repo

from recstill.api.errors import FeatureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from feast.feast_object import FeastObject
    from feast.repo_contents import RepoContents

    from recstill.settings import Settings

_KINDS: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "entities": Entity,
    "feature_services": FeatureService,
    "stream_feature_views": StreamFeatureView,
    "on_demand_feature_views": OnDemandFeatureView,
    "label_views": LabelView,
    "permissions": Permission,
    "feature_views": (FeatureView, BatchFeatureView),
    "data_sources": DataSource,
}


def definitions(settings: Settings, extra: Sequence[FeastObject] = ()) -> RepoContents:
    """Import the repository's modules afresh and collect their Feast objects, with those that plugins offer.

    Feast's own reader: subfolders, `.feastignore`, label views, permissions and projects included.
    Raise FeatureError for a file that cannot be imported and for two objects of one kind and name.
    """
    os.environ["RECSTILL_HOME"] = str(settings.home)
    repo = settings.feature_repo
    with inside(repo):
        try:
            contents = parse_repo(repo)
        except (Exception, SystemExit) as error:
            raise FeatureError(_blame(error, repo)) from error
    for thing in extra:
        _add(contents, thing)
    config = load_repo_config(repo, repo / "feature_store.yaml")
    contents.projects[:] = contents.projects or [Project(name=config.project, description=config.project_description or "")]
    if [project.name for project in contents.projects] != [config.project]:
        names = ", ".join(repr(project.name) for project in contents.projects)
        raise FeatureError(f"{repo} defines the project {names}; feature_store.yaml says {config.project!r}. Keep one name.")
    _check_names(contents)
    return contents


def only(contents: RepoContents, views: Collection[str]) -> RepoContents:
    """Return the definitions of some views, with what they need and the services that hold no others."""
    chosen = [view for view in contents.feature_views if view.name in views]
    entities = {name for view in chosen for name in view.entities}
    sources = {source.name for view in chosen for source in (view.batch_source, view.stream_source) if source is not None}
    return contents._replace(
        feature_views=chosen,
        entities=[entity for entity in contents.entities if entity.name in entities],
        data_sources=[source for source in contents.data_sources if source.name in sources],
        feature_services=[s for s in contents.feature_services if {p.name for p in s.feature_view_projections} <= set(views)],
        on_demand_feature_views=[], stream_feature_views=[], label_views=[], permissions=[],
    )  # fmt: skip


@contextmanager
def inside(repo: Path) -> Iterator[None]:
    """Be in the repository as the `feast` command is, and forget its modules afterwards.

    The next home must not see this one's paths; a module of ours with the name of one of theirs comes back.
    """
    kept = {name: sys.modules.pop(name) for name in _shadowed(repo)}
    before, place, writes = set(sys.modules), Path.cwd(), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # as Feast: reading leaves nothing in the folder
    sys.path.insert(0, str(repo))
    os.chdir(repo)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what a file prints is not what the command answers
            yield
    finally:
        os.chdir(place)
        sys.dont_write_bytecode = writes
        sys.path.remove(str(repo))
        for name in set(sys.modules) - before:
            if _lies_in(sys.modules[name], repo):
                del sys.modules[name]
        sys.modules.update(kept)


def _shadowed(repo: Path) -> list[str]:
    """Name the loaded modules that the repository's own would not get past: those of the same name from elsewhere."""
    tops = {file.relative_to(repo.resolve()).parts[0].removesuffix(".py") for file in get_repo_files(repo)}
    own = {top for top in tops if (repo / f"{top}.py").is_file() or (repo / top / "__init__.py").is_file()}
    own |= {top for top in tops if getattr(sys.modules.get(top), "__file__", "") is None}  # folders of another repository
    return [name for name in sys.modules if name.partition(".")[0] in own]


def _lies_in(module: Any, repo: Path) -> bool:
    """Say whether a module is a file, or a folder without `__init__`, of the repository."""
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(path is not None and Path(path).is_relative_to(repo) and "site-packages" not in path for path in paths)


def _blame(error: BaseException, repo: Path) -> str:
    """Name the file and line of the repository in which importing ended."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(repo.resolve())]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}," if frames else f"{repo}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno},"
    if isinstance(error, SystemExit):
        return f"{place} ends the program (exit code {error.code}) when it is imported. Remove that from the definitions."
    return f"{place} cannot be imported: {type(error).__name__}: {error}"


def _add(contents: RepoContents, thing: Any) -> None:
    """Add an object that a plugin offers, and the sources that it holds, as Feast's reader does for a file's."""
    for kind, types in _KINDS.items():
        if isinstance(thing, types):
            known = getattr(contents, kind)
            if not any(thing is other for other in known):
                known.append(thing)
            break
    sources = [getattr(thing, "batch_source", None), getattr(thing, "stream_source", None)]
    if isinstance(thing, LabelView | PushSource):
        sources.append(getattr(thing, "source", None))
    for source in sources:
        if source is not None and source is not thing:
            _add(contents, source)


def _check_names(contents: RepoContents) -> None:
    """Refuse a name that two different objects have; Feast would take one of them, whichever comes last."""
    problems = []
    for kind in ("entities", "feature_services", "data_sources", "permissions"):
        seen: dict[str, Any] = {}
        for thing in getattr(contents, kind):
            if thing.name in seen and seen[thing.name] != thing:
                problems.append(f"two {kind.replace('_', ' ')} are named {thing.name!r}")
            seen[thing.name] = thing
        getattr(contents, kind)[:] = [thing for name, thing in seen.items() if name or kind != "data_sources"]
    views = (contents.feature_views, contents.stream_feature_views, contents.on_demand_feature_views, contents.label_views)
    names = [view.name.lower() for group in views for view in group]
    problems += [f"two views are named {name!r}" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        raise FeatureError("The feature definitions have problems:\n" + "\n".join(f"  - {p}" for p in problems))
