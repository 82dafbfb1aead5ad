"""Features: from raw files to applied definitions, online values and a list of who uses what."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from sqlmodel import select

from recstill.api.errors import FeatureError, UnknownNameError
from recstill.data.fetch import open_raw, raw_folder
from recstill.data.files import read_json, write_json
from recstill.registry.models import FeatureSetRow, VersionRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from feast import FeatureStore

    from recstill.api.task import Dataset
    from recstill.features.apply import Change
    from recstill.features.verify import ViewCheck
    from recstill.recipes.platform import Platform


def build_sources(platform: Platform, dataset: Dataset) -> bool:
    """Write the feature sources of a data set unless they are there for this data and code; say whether it did."""
    folder = platform.settings.folder("sources", dataset.name)
    stamp = {
        "sha256": dataset.sha256,
        "sources_version": dataset.sources_version,
        "raw": str(raw_folder(dataset, platform.settings.cache)),
    }
    if (folder / "built.json").is_file() and read_json(folder / "built.json") == stamp:
        return False
    (folder / "built.json").unlink(missing_ok=True)
    dataset.build_sources(open_raw(dataset, platform.settings.cache), folder)
    write_json(folder / "built.json", stamp)
    return True


def open_store(platform: Platform) -> FeatureStore:
    """Open the Feast store of this installation."""
    from recstill.features.repo import open_repo

    return open_repo(platform.settings)


def _contents(platform: Platform) -> Any:
    from recstill.features.repo import definitions

    extra = platform.plugins.feature_definitions()
    return definitions(platform.settings, extra)


def plan_features(platform: Platform) -> list[Change]:
    """Return what `apply_features` would change."""
    from recstill.features.apply import plan

    return plan(open_store(platform), _contents(platform))


def apply_features(platform: Platform, say: Callable[[str], None]) -> list[Change]:
    """Build missing sources, apply the definitions, and return what changed."""
    from recstill.features.apply import apply

    with _alone(platform, "features"):
        for name, dataset in platform.catalog("datasets").items():
            if raw_folder(dataset, platform.settings.cache).is_dir() and build_sources(platform, dataset):
                say(f"built the feature sources of {name}")
        changes = apply(open_store(platform), _contents(platform))
    with platform.registry.transaction() as session:
        if changes:
            details = {"changes": [f"{c.action} {c.kind} {c.name}" for c in changes]}
            platform.registry.audit(session, "features.apply", "features", **details)
    return changes


def materialize_features(platform: Platform, until: datetime | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Write the values as of `until` (default: the newest there are) to the online store and the packed arrays."""
    from recstill.features.online import latest_event, materialize

    if until is not None and until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    store = open_store(platform)
    if not store.list_feature_views():
        raise FeatureError("No feature views are applied. Run `recstill features apply` first.")
    with _alone(platform, "materialize"):
        packed = materialize(store, platform.settings.folder("online"), until or latest_event(store), say)
    with platform.registry.transaction() as session:
        platform.registry.audit(session, "features.materialize", "features", version=packed.version, as_of=packed.meta["as_of"])
    return {
        "version": packed.version,
        "as_of": packed.meta["as_of"],
        "views": {n: len(v.keys) for n, v in packed.views.items()},
    }


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

    users = _users(platform)
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
    meta = read_json(current.parent / str(read_json(current)["version"]) / "online.json")
    return f"{declared}; as of {meta['as_of'][:10]}" if view in meta["views"] else declared


def _users(platform: Platform) -> dict[tuple[str, str], list[str]]:
    users: dict[tuple[str, str], list[str]] = {}
    with platform.registry.transaction() as session:
        pairs: Sequence[Any] = session.exec(
            select(VersionRow, FeatureSetRow).where(VersionRow.feature_set_id == FeatureSetRow.id)
        ).all()
        for version, feature_set in pairs:
            for view in feature_set.content["views"]:
                for feature in view["features"]:
                    users.setdefault((view["name"], feature), []).append(f"{version.model_name}:{version.number}")
    return users


@contextmanager
def _alone(platform: Platform, what: str) -> Iterator[None]:
    """Hold a lock, so that two processes do not apply or materialize at once."""
    lock = Path(platform.settings.folder("locks")) / f"{what}.lock"
    try:
        with FileLock(lock, timeout=300):
            yield
    except Timeout as error:
        raise FeatureError(f"Another process has been busy with {what} for 5 minutes; wait for it.") from error
