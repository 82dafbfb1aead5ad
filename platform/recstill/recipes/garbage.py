"""What is stored and nobody needs: found, listed, deleted. Never more than was listed, never what this registry never knew."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from recstill.api.errors import RecstillError, RegistryError
from recstill.distillation.store import list_stores
from recstill.recipes.leftovers import age_of, delete_path, find_leftovers, old_bentos, size_of
from recstill.registry.known import known_artifacts, known_snapshots, known_versions
from recstill.registry.versions import list_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlmodel import Session

    from recstill.distillation.store import SignalStore
    from recstill.recipes.platform import Platform

GRACE = timedelta(days=1)
KINDS = ("artifact", "signals", "bento", "left over")


@dataclass(frozen=True)
class Garbage:
    """A thing that no one uses. goes: whether collecting deletes it; why: the reason, or why it stays nevertheless."""

    kind: str
    name: str
    why: str
    bytes: int
    goes: bool


def find_garbage(platform: Platform, kinds: Collection[str], grace: timedelta = GRACE) -> list[Garbage]:
    """Return what could go. Raise RegistryError if this registry never had a version, so that all would look unused.

    grace: what was changed less long ago stays; a run may be about to register it.
    """
    with platform.registry.read() as session:
        return _find(platform, session, kinds, grace)


def collect_garbage(platform: Platform, listed: Sequence[Garbage], grace: timedelta = GRACE) -> list[Garbage]:
    """Delete what was listed, where it is garbage still; return it."""
    with platform.registry.transaction() as session:
        # The write lock is held while deleting, so that no run can register one of them meanwhile.
        found = set(_find(platform, session, {one.kind for one in listed}, grace))
        gone = [one for one in listed if one.goes and one in found]
        for one in gone:
            _delete(platform, one)
        if gone:
            platform.registry.audit(session, "gc", "garbage", deleted=[f"{one.kind} {one.name}" for one in gone])
    return gone


def why_useless(platform: Platform, session: Session, store: SignalStore) -> str:
    """Say why signals cannot be used any more; empty if they can."""
    teacher = store.key.teacher.partition("@")[0]
    if teacher not in {f"{version.model_name}:{version.number}" for version in list_versions(session)}:
        return f"teacher {store.key.teacher} is not registered"
    if not (platform.settings.home / "snapshots" / store.key.snapshot).is_dir():
        return f"snapshot {store.key.snapshot} is gone"
    return ""


def _find(platform: Platform, session: Session, kinds: Collection[str], grace: timedelta) -> list[Garbage]:
    finders = {
        "artifact": lambda: _artifacts(platform, session, grace),
        "signals": lambda: _signals(platform, session, grace),
        "bento": lambda: _bentos(platform, grace),
        "left over": lambda: _leftovers(platform, grace),
    }
    return [one for kind in KINDS if kind in kinds for one in finders[kind]()]


def _artifacts(platform: Platform, session: Session, grace: timedelta) -> Iterator[Garbage]:
    stored, known = platform.artifacts.stored(), known_artifacts(session)
    if stored and not known:
        raise RegistryError(
            f"This registry never knew an artifact, but {platform.settings.artifacts_url} holds {len(stored)}: it is another "
            "registry, or an empty one. Nothing was deleted; see RECSTILL_HOME and RECSTILL_REGISTRY_URL."
        )
    used = {version.artifact for version in list_versions(session)}
    for digest in stored:
        if digest not in used:
            folder, why = f"{digest[:2]}/{digest}", "no version names it"
            if digest not in known:
                why = "unknown to this registry: it stays, another one may use it"
            yield _judged("artifact", digest, why, platform.artifacts.size(folder), digest in known,
                          platform.artifacts.age(folder), grace)  # fmt: skip
    for folder in platform.artifacts.unfinished():
        digest = folder.rpartition("/")[2]
        why = "never finished" if digest not in used else "a version names it, but its manifest is gone: restore it"
        yield _judged("artifact", folder, why, platform.artifacts.size(folder), digest not in used,
                      platform.artifacts.age(folder), grace)  # fmt: skip


def _signals(platform: Platform, session: Session, grace: timedelta) -> Iterator[Garbage]:
    root = platform.settings.home / "signals"
    versions, snapshots = known_versions(session), known_snapshots(session)
    for store in list_stores(root):
        name, size, age = str(store.folder.relative_to(root)), size_of(store.folder), age_of(store.folder)
        try:
            _ = store.card
        except RecstillError as error:
            yield Garbage("signals", name, f"it stays, its card cannot be read: {error}", size, goes=False)
            continue
        if why := why_useless(platform, session, store):
            is_known = store.key.teacher.partition("@")[0] in versions and store.key.snapshot in snapshots
            unknown = f"{why}, and never was here: it stays, another registry may know it"
            yield _judged("signals", name, why if is_known else unknown, size, is_known, age, grace)


def _bentos(platform: Platform, grace: timedelta) -> Iterator[Garbage]:
    for folder, is_served in old_bentos(platform.settings):
        why = "it is served" if is_served else "made by `recstill serve`; made again when it is needed"
        name = str(folder.relative_to(platform.settings.home))
        yield _judged("bento", name, why, size_of(folder), not is_served, age_of(folder / "recstill.json"), grace)


def _leftovers(platform: Platform, grace: timedelta) -> Iterator[Garbage]:
    for path, why in find_leftovers(platform.settings):
        yield _judged("left over", str(path.relative_to(platform.settings.home)), why, size_of(path), True, age_of(path), grace)


def _judged(kind: str, name: str, why: str, size: int, may_go: bool, age: timedelta, grace: timedelta) -> Garbage:
    if may_go and age < grace:
        return Garbage(
            kind, name, f"{why}, but it is new: it stays until it is {grace / timedelta(days=1):g} days old", size, False
        )
    return Garbage(kind, name, why, size, may_go)


def _delete(platform: Platform, one: Garbage) -> None:
    if one.kind == "artifact":
        platform.artifacts.delete(one.name if "/" in one.name else f"{one.name[:2]}/{one.name}")
    elif one.kind == "signals":
        shutil.rmtree(platform.settings.home / "signals" / one.name)
    else:
        delete_path(platform.settings.home / one.name)
