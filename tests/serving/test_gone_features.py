"""A worker that starts anew when its version of the features is gone serves the newest one that fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recstill.api import FeatureError
from recstill.data.files import write_card
from recstill.data.packed import current_version
from recstill.data.versions import next_name, prune
from recstill.recipes.platform import Platform
from recstill.registry.versions import find_version
from recstill.serving.app import Service


@pytest.fixture
def bento(platform: Platform, tmp_path: Path) -> Service:
    """The service of a bento with the ads student and features of its own, and three versions beside that it may serve."""
    with platform.registry.transaction() as session:
        version = find_version(session, "ads:1")
    models = tmp_path / "bento" / "models"
    shutil.copytree(platform.artifacts.get(version.artifact), models / "ads")
    (models / "models.json").write_text(json.dumps([{"task": "ads", "version": "ads:1", "bundle": "ads"}]))
    current = current_version(platform.settings.folder("online"))
    shutil.copytree(current, tmp_path / "bento" / "online")
    for _ in range(3):
        a_copy(current, tmp_path / "online")
    return Service(models, tmp_path / "decisions")


def a_copy(version: Path, root: Path, without: str = "") -> Path:
    """Make a version of the same features, or with one view less."""
    root.mkdir(exist_ok=True)
    target = Path(shutil.copytree(version, root / next_name(root)))
    meta = json.loads((target / "online.json").read_text())
    meta["version"] = target.name
    meta["views"].pop(without, None)
    write_card(target / "online.json", meta)
    return target


def served(service: Service) -> str:
    return service.scorers["ads"].store.version


def test_a_version_that_is_gone_gives_way_to_the_newest_that_fits(bento: Service, tmp_path: Path) -> None:
    root = tmp_path / "online"
    first, _, third = sorted(path for path in root.iterdir() if path.is_dir())
    shutil.rmtree(first)
    a_copy(third, root, without="product_history")  # the newest, but not what the model was trained on
    bento.load(first)
    assert served(bento) == third.name
    for _ in range(5):
        prune(root, a_copy(third, root))
    assert third.is_dir(), "a version that is served was deleted"


def test_without_any_that_fits_the_bento_serves_its_own(bento: Service, tmp_path: Path) -> None:
    wanted = tmp_path / "online" / "v99999999-gone"
    own = json.loads((tmp_path / "bento" / "online" / "online.json").read_text())["version"]
    shutil.rmtree(tmp_path / "online")
    bento.load(wanted)
    assert served(bento) == own
    shutil.rmtree(tmp_path / "bento" / "online")
    with pytest.raises(FeatureError, match="holds no online features"):
        bento.load(wanted)


def test_a_version_that_is_there_and_does_not_fit_is_refused(bento: Service, tmp_path: Path) -> None:
    newest = sorted((tmp_path / "online").iterdir())[-1]
    poor = a_copy(newest, tmp_path / "online", without="product_history")
    with pytest.raises(FeatureError, match="'product_history' is not online"):
        bento.load(poor)
