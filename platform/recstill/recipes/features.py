"""Features: from raw files to applied definitions, online values and a list of who uses what."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from recstill.api.errors import FeatureError, IntegrityError, UnknownNameError
from recstill.data.code import code_of
from recstill.data.fetch import open_raw, raw_digests, raw_folder
from recstill.data.files import check_sha256, read_card, sha256_of, write_card
from recstill.pipeline.inputs import Inputs, in_short
from recstill.recipes.feature_scope import Scope, named, users_of

BUILT = "built.json"
_PATIENCE = 1.0

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pyarrow as pa
    from feast import FeatureStore
    from feast.repo_contents import RepoContents

    from recstill.api.task import Dataset, Task
    from recstill.features.apply import Change
    from recstill.features.verify import ViewCheck
    from recstill.recipes.platform import Platform

ALL = Scope()


def build_sources(platform: Platform, dataset: Dataset) -> str:
    """Write the feature sources of a data set unless they are there for this data and code; say why it did, if it did."""
    path = platform.settings.folder("sources", dataset.name) / BUILT
    if not _why_build(path, sources_inputs(platform, dataset)):
        return ""  # whoever holds them need not be waited for
    with holding_sources(platform, dataset.name):
        return _build(platform, dataset)


@contextmanager
def holding_sources(platform: Platform, dataset: str, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Keep other processes from writing the sources of a data set: what a task writes of its rows is of these rows alone,
    and must stay until it was joined with them."""
    lock = FileLock(platform.settings.folder("locks") / f"sources-{dataset}.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        say(f"waiting for another process that joins rows with the feature sources of {dataset}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(platform: Platform, dataset: Dataset) -> str:
    folder = platform.settings.folder("sources", dataset.name)
    inputs = sources_inputs(platform, dataset)
    reason = _why_build(folder / BUILT, inputs)
    if reason:
        (folder / BUILT).unlink(missing_ok=True)
        with _aside(folder) as made:
            dataset.build_sources(open_raw(dataset, platform.settings.cache), made)
            _take_in(made, folder, inputs.to_json())
    return reason


def sources_inputs(platform: Platform, dataset: Dataset) -> Inputs:
    """What decides the feature sources of a data set: its files, and the code of the plugin that reads them."""
    owner = platform.catalog("datasets").owner(dataset.name)
    parts = {
        "data": raw_digests(dataset, platform.settings.cache),
        "sources_version": dataset.sources_version,
        "code": {owner: code_of(platform.plugins.get(owner).code, owner)},
    }
    return Inputs(parts)


def _why_build(path: Path, inputs: Inputs) -> str:
    try:
        built = read_card(path, _rebuild(path.parent))
    except FileNotFoundError:
        return "they were not there"
    if "parts" not in built or "files" not in built:  # written by an earlier version, which did not keep what decided them
        return "what decided them was not kept"
    return in_short(inputs.changes_since(Inputs.from_json(built)))


def write_training_sources(platform: Platform, task: Task, raw: Path, rows: pa.Table) -> None:
    """Write the sources that a task makes of its rows, and note their digests; within `holding_sources`."""
    _build(platform, platform.dataset_of(task))  # another process may have just begun to
    folder = platform.settings.folder("sources", task.spec.dataset)
    with _aside(folder) as made:
        task.write_training_sources(raw, rows, made)
        _take_in(made, folder, read_card(folder / "built.json", _rebuild(folder)))


def damaged_sources(store: FeatureStore, views: Collection[str]) -> dict[str, str]:
    """Compare the sources of views that recstill built with their digests; return what is wrong, by view."""
    sources = {name: Path(getattr(store.get_feature_view(name).batch_source, "path", None) or "") for name in views}
    problems = {path: _problem_of(path) for path in set(sources.values())}
    return {name: problems[path] for name, path in sources.items() if problems[path]}


def _problem_of(path: Path) -> str:
    folder = path.parent
    try:
        files = read_card(folder / "built.json", _rebuild(folder)).get("files", {}) if (folder / "built.json").is_file() else {}
        if path.name in files:
            check_sha256(path, files[path.name], _rebuild(folder))
    except IntegrityError as error:
        return str(error)
    return ""


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        yield Path(temporary)


def _take_in(made: Path, folder: Path, card: dict[str, Any]) -> None:
    """Move files where sources are read and note their digests; a kill in between leaves files that no digest speaks of."""
    files = {path.name: sha256_of(path) for path in sorted(made.iterdir())}
    if others := {name: digest for name, digest in card.get("files", {}).items() if name not in files}:
        write_card(folder / "built.json", {**card, "files": others})
    for name in files:
        (made / name).replace(folder / name)
    write_card(folder / "built.json", {**card, "files": {**others, **files}})


def _rebuild(folder: Path) -> str:
    return f"Delete {folder} and run `recstill features apply`, which builds it again."


def open_store(platform: Platform) -> FeatureStore:
    """Open the Feast store of this installation to read it; nothing is made where nothing is applied yet."""
    from recstill.features.repo import open_repo

    return open_repo(platform.settings, only_read=True)


def plan_features(platform: Platform, scope: Scope = ALL) -> list[Change]:
    """Return what `apply_features` would change, with the versions that use it. Nothing is written."""
    from recstill.features.apply import plan
    from recstill.features.repo import open_repo

    store = open_repo(platform.settings, only_read=True, with_online=False)
    return named(platform, plan(store, _contents(platform, scope), partial=scope != ALL))


def apply_features(
    platform: Platform,
    say: Callable[[str], None],
    scope: Scope = ALL,
    delete: Collection[tuple[str, str]] | None = None,
) -> list[Change]:
    """Build missing sources, apply the definitions, and return what changed.

    delete: kind and name of what may be deleted, of what recstill once created; all of that which is not defined if None.
    """
    from recstill.features.apply import apply, left_alone
    from recstill.features.repo import open_repo

    with _alone(platform, "features"):
        _build_all(platform, scope, say)
        contents = _contents(platform, scope)
        store = open_repo(platform.settings)
        changes = named(platform, apply(store, contents, delete, partial=scope != ALL))
        if scope == ALL and (alone := left_alone(store, contents)):
            say(f"not defined here and left alone, because recstill did not make it: {', '.join(alone)}")
    _audit(platform, changes)
    return changes


def ensure_features(platform: Platform, say: Callable[[str], None]) -> None:
    """Have the definitions applied before a run: created and updated in recstill's own registry, never deleted.

    A registry or an online store that recstill did not make is only read; `recstill features apply` is the way to change it.
    """
    from recstill.features.repo import is_own

    if is_own(platform.settings):
        apply_features(platform, say, delete=())


def check_own_store(platform: Platform, who: str) -> None:
    """Raise FeatureError before work that writes features, where registry or online store are not recstill's own."""
    from recstill.features.repo import is_own

    if not is_own(platform.settings):
        raise FeatureError(
            f"{who} applies and materializes features, and {platform.settings.feature_repo} names a registry or an online "
            f"store that recstill did not make. Unset RECSTILL_FEATURE_REPO, or use `recstill features`."
        )


def _build_all(platform: Platform, scope: Scope, say: Callable[[str], None]) -> None:
    absent = []
    for name, dataset in platform.catalog("datasets").items():
        if scope.datasets is not None and name not in scope.datasets:
            continue
        if not raw_folder(dataset, platform.settings.cache).is_dir():
            absent.append(name)
        elif reason := build_sources(platform, dataset):
            say(f"built the feature sources of {name}: {reason}")
    if absent and scope.datasets is not None:
        say(f"not here yet, so without sources: {', '.join(absent)}. Get them: `recstill data fetch NAME`")


def _contents(platform: Platform, scope: Scope = ALL) -> RepoContents:
    from recstill.features.definitions import definitions, only

    contents = definitions(platform.settings, platform.plugins.feature_definitions())
    return contents if scope.views is None else only(contents, scope.views)


def _audit(platform: Platform, changes: Sequence[Change]) -> None:
    if not changes:
        return
    told = [f"{c.action} {c.kind} {c.name}" + (f" (used by {c.used_by})" if c.used_by else "") for c in changes]
    with platform.registry.transaction() as session:
        platform.registry.audit(session, "features.apply", "features", changes=told)


def materialize_features(
    platform: Platform, until: datetime | None, say: Callable[[str], None], scope: Scope = ALL
) -> dict[str, Any]:
    """Write the values as of `until` (default: the newest there are) to the online store and the packed arrays.

    A view that fails keeps the values of before; `failed` says why.
    """
    from recstill.features.online import latest_event, materialize

    if until is not None and until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    store = open_store(platform)
    applied = [view.name for view in store.list_feature_views()]
    if not applied:
        raise FeatureError("No feature views are applied. Run `recstill features apply` first.")
    if strange := sorted((scope.views or frozenset()) - set(applied)):
        raise UnknownNameError("feature view", strange[0], applied, "Is it applied? `recstill features apply`.")
    _check_place(platform, store, scope)
    with _alone(platform, "materialize"):
        chosen = applied if scope.views is None else sorted(scope.views)
        damaged = damaged_sources(store, chosen)
        moment = until or latest_event(store, [name for name in chosen if name not in damaged] or chosen)
        packed = materialize(store, platform.settings.folder("online"), moment, say, scope.views, damaged)
    with platform.registry.transaction() as session:
        platform.registry.audit(session, "features.materialize", "features", version=packed.version, as_of=packed.meta["as_of"])
    return {
        "version": packed.version,
        "as_of": packed.meta["as_of"],
        "views": {n: len(v.keys) for n, v in packed.views.items()},
        "failed": dict(packed.meta["failed"]),
    }


def _check_place(platform: Platform, store: FeatureStore, scope: Scope) -> None:
    """Raise FeatureError if the registry was copied with its home: it still names the files of the home it came from."""
    from recstill.features.apply import elsewhere
    from recstill.features.repo import is_own

    if is_own(platform.settings) and (moved := elsewhere(store, _contents(platform, scope))):
        view, place = next(iter(moved.items()))
        raise FeatureError(
            f"The applied source of {view!r} is {place}, which is not where it is defined now; was this home copied or moved? "
            f"Run `recstill features apply` first."
        )


def verify_features(platform: Platform, num_rows: int) -> list[ViewCheck]:
    """Compare random rows of the online store and the packed arrays with the offline truth."""
    from recstill.features.verify import verify_online

    return verify_online(open_store(platform), platform.settings.folder("online"), num_rows)


@dataclass(frozen=True)
class FeatureRow:
    """A line of the feature registry."""

    feature: str
    type: str
    view: str
    owner: str
    availability: str
    freshness: str
    used_by: str


def list_features(platform: Platform, name: str | None = None) -> list[FeatureRow]:
    """Return every feature with its type, view, owner, availability, freshness and the model versions that use it."""
    from recstill.features.repo import all_views

    users = users_of(platform)
    rows = [
        FeatureRow(feature, kind, view.name, view.owner, view.availability, _freshness(platform, view.name, view.freshness),
                   ", ".join(users.get((view.name, feature), [])))
        for view in all_views(open_store(platform))
        for feature, kind in view.features.items()
    ]  # fmt: skip
    if name is not None:
        chosen = [row for row in rows if name in (row.feature, row.view, f"{row.view}:{row.feature}")]
        if not chosen:
            raise UnknownNameError("feature", name, [row.feature for row in rows], "See `recstill features list`.")
        return chosen
    return sorted(rows, key=lambda row: (row.view, row.feature))


def _freshness(platform: Platform, view: str, declared: str) -> str:
    current = platform.settings.home / "online" / "current.json"
    if not current.is_file():
        return f"{declared}; not online"
    meta = read_card(current.parent / str(read_card(current)["version"]) / "online.json")
    return f"{declared}; as of {meta['as_of'][:10]}" if view in meta["views"] else declared


@contextmanager
def _alone(platform: Platform, what: str) -> Iterator[None]:
    """Hold a lock, so that two processes do not apply or materialize at once."""
    lock = Path(platform.settings.folder("locks")) / f"{what}.lock"
    try:
        with FileLock(lock, timeout=300):
            yield
    except Timeout as error:
        raise FeatureError(f"Another process has been busy with {what} for 5 minutes; wait for it.") from error
