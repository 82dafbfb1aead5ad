"""Bundles are verified before anything of them is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recstill.api import BundleError, FeatureError
from recstill.data.bundle import open_bundle
from recstill.data.files import read_card, read_json, write_card, write_json
from recstill.data.packed import current_version, open_store
from recstill.recipes.platform import Platform
from recstill.recipes.stages import RunResult
from recstill.registry.versions import find_version
from recstill.serving.scorer import Graph, Scorer


@pytest.fixture
def bundle(platform: Platform, finished: tuple[Platform, RunResult], tmp_path: Path) -> Path:
    with platform.registry.transaction() as session:
        version = find_version(session, finished[1].student)
    return Path(shutil.copytree(platform.artifacts.get(version.artifact), tmp_path / "bundle"))


def test_every_file_of_a_bundle_is_checked(bundle: Path) -> None:
    for name in open_bundle(bundle).files:
        original = (bundle / name).read_bytes()
        (bundle / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name} was changed"):
            Graph(bundle)
        (bundle / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing"):
            Graph(bundle)
        (bundle / name).write_bytes(original)
    (bundle / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="extra.bin, which its manifest does not name"):
        Graph(bundle)


def test_a_bundle_names_no_path_of_the_machine_that_made_it(bundle: Path) -> None:
    for name in open_bundle(bundle).files:
        content = (bundle / name).read_bytes()
        assert b"recstill/export" not in content, name
        assert str(Path.cwd()).encode() not in content, name


def test_a_manifest_that_is_wrong_or_absent_is_refused(bundle: Path) -> None:
    manifest = read_json(bundle / "manifest.json")
    write_json(bundle / "manifest.json", {**manifest, "files": {"../../etc/passwd": "0"}})
    with pytest.raises(BundleError, match="not a plain file name"):
        open_bundle(bundle)
    write_json(bundle / "manifest.json", {"format": 99})
    with pytest.raises(BundleError, match="is a bundle of format 99, and this recstill reads format 2"):
        open_bundle(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match="has no manifest"):
        open_bundle(bundle)


def test_a_feature_that_is_missing_online_stops_the_server_at_start(platform: Platform, bundle: Path, tmp_path: Path) -> None:
    online = Path(shutil.copytree(current_version(platform.settings.folder("online")), tmp_path / "online"))
    meta = read_card(online / "online.json")
    del meta["views"]["product_history"]["features"]["p_price"]
    meta["views"].pop("household_favourites")
    write_card(online / "online.json", meta)
    with pytest.raises(FeatureError) as caught:
        Scorer("ads:1", bundle, open_store(online))
    for words in ("product_history:p_price is missing online", "'household_favourites' is not online", "features materialize"):
        assert words in str(caught.value)


def test_a_teacher_that_needs_privileged_features_cannot_be_served(
    platform: Platform, finished: tuple[Platform, RunResult]
) -> None:
    with platform.registry.transaction() as session:
        folder = platform.artifacts.get(find_version(session, finished[1].teacher).artifact)
    with pytest.raises(FeatureError, match="'household_later' is for training only"):
        Scorer("t", folder, open_store(current_version(platform.settings.folder("online"))))
