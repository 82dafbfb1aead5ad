"""One changed bit, a cut or an emptied file of anything stored is found, names the file, and is no traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from recstill.api.errors import RecstillError
from recstill.data.packed import current_version, open_store
from recstill.data.snapshot import open_snapshot
from recstill.distillation.store import list_stores
from recstill.features.repo import all_views
from recstill.recipes.features import apply_features, damaged_sources
from recstill.recipes.features import open_store as feast_store
from recstill.recipes.packaging import check_bento, package
from recstill.recipes.platform import Platform
from recstill.recipes.release import verify_versions
from recstill.recipes.stages import RunResult
from recstill.serving.app import Service
from recstill.settings import Settings


@dataclass(frozen=True)
class Home:
    """A copy of a finished home with a bento, to break and mend."""

    platform: Platform
    bento: Path

    @property
    def folder(self) -> Path:
        return self.platform.settings.home


@pytest.fixture(scope="module")
def broken_home(finished: tuple[Platform, RunResult], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    before = finished[0].settings
    copy = tmp_path_factory.mktemp("damage") / "home"
    shutil.copytree(before.home, copy, symlinks=True)
    os.environ["RECSTILL_HOME"] = str(copy)
    platform = Platform.open(Settings.from_environment())
    apply_features(platform, lambda _: None)  # the feature registry of a copy still names the files of the original
    home = Home(platform, package(platform, ["ads:1"]))
    for _, check in KINDS.values():
        check(home)
    yield home
    os.environ["RECSTILL_HOME"] = str(before.home)


def artifacts(home: Home) -> None:
    for row in verify_versions(home.platform, None):
        if row["state"] != "ok":
            raise RecstillError(row["state"])


def snapshots(home: Home) -> None:
    root = home.folder / "snapshots"
    for path in root.glob("*/rows.parquet"):
        open_snapshot(path.parent.name, root)


def signals(home: Home) -> None:
    for store in list_stores(home.folder / "signals"):
        store.read("rows")


def served(home: Home) -> None:
    check_bento(home.bento)
    Service(home.bento / "src" / "models", home.folder / "decisions")


def online(home: Home) -> None:
    open_store(current_version(home.folder / "online"))


def sources(home: Home) -> None:
    store = feast_store(home.platform)
    for problem in damaged_sources(store, [view.name for view in all_views(store)]).values():
        raise RecstillError(problem)


def read_by_views(home: Home) -> set[Path]:
    store = feast_store(home.platform)
    return {Path(store.get_feature_view(view.name).batch_source.path) for view in all_views(store)}


KINDS: dict[str, tuple[str, Callable[[Home], None]]] = {
    "file of an artifact": ("artifacts/??/*/*", artifacts),
    "rows of a snapshot": ("snapshots/*/rows.parquet", snapshots),
    "card of a snapshot": ("snapshots/*/snapshot.json", snapshots),
    "part of signals": ("signals/*/*/*/*.parquet", signals),
    "card of signals": ("signals/*/*/*/signals.json", signals),
    "packed array": ("online/*/*/*", online),
    "card of packed features": ("online/*/online.json", online),
    "current version": ("online/current.json", online),
    "model of a bento": ("bentoml/bentos/*/*/src/models/*/*", served),
    "manifest of a bento": ("bentoml/bentos/*/*/src/models/*/manifest.json", served),
    "models of a bento": ("bentoml/bentos/*/*/src/models/models.json", served),
    "features of a bento": ("bentoml/bentos/*/*/src/online/*/*", served),
    "card of a bento's features": ("bentoml/bentos/*/*/src/online/online.json", served),
    "feature source": ("sources/*/*.parquet", sources),
    "card of feature sources": ("sources/*/built.json", sources),
}


def damaged(content: bytes, data: st.DataObject) -> bytes:
    how = data.draw(st.sampled_from(["flip", "flip", "flip", "cut", "empty"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        return content[:place] + bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))]) + content[place + 1 :]
    return content[:place] if how == "cut" else b""


@pytest.mark.parametrize("kind", list(KINDS))
@given(data=st.data())
@settings(
    max_examples=8,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, *HealthCheck],
)
def test_damage_is_found_and_named(kind: str, broken_home: Home, data: st.DataObject) -> None:
    pattern, check = KINDS[kind]
    version = current_version(broken_home.folder / "online").name
    found = [path for path in sorted(broken_home.folder.glob(pattern)) if path.is_file() and path.stat().st_size]
    used = [
        path for path in found if "online/" not in pattern or "bentos" in pattern or version in path.parts or "current" in kind
    ]
    if kind == "feature source":
        used = [path for path in used if path in read_by_views(broken_home)]
    path = data.draw(st.sampled_from(used))
    content = path.read_bytes()
    path.write_bytes(damaged(content, data))
    try:
        with pytest.raises(RecstillError) as failure:
            check(broken_home)
    finally:
        path.write_bytes(content)
    assert path.name in str(failure.value)
    assert str(path.parent) in str(failure.value)
