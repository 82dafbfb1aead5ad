"""A team's Feast repository, a home that works on it, and plain Feast to compare with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast_repos import DRIVERS, RIDERS, YAML, write_drivers, write_source

from recstill.settings import Settings


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A repository with relative paths, a view in a subfolder, a label view and a permission; nothing is applied."""
    repo = tmp_path / "team"
    (repo / "views").mkdir(parents=True)
    (repo / "data").mkdir()
    (repo / "feature_store.yaml").write_text(YAML)
    (repo / "drivers.py").write_text(DRIVERS)
    (repo / "views" / "riders.py").write_text(RIDERS)
    write_drivers(repo)
    write_source(repo / "data" / "riders.parquet", {"rides": pa.array([1.0, 2.0, 3.0], pa.float32())})
    return repo


@pytest.fixture
def settings(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of a fresh home that works on the team's repository, from another working directory."""
    monkeypatch.setenv("RECSTILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RECSTILL_FEATURE_REPO", str(team))
    monkeypatch.chdir(tmp_path)
    yield Settings.from_environment()
    assert Path.cwd() == tmp_path, "the working directory was changed"


@pytest.fixture
def feast_says(team: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call plain Feast on the repository, as its own command does: from inside it."""

    def call(method: str, *arguments: Any, **options: Any) -> Any:
        from feast import FeatureStore
        from feast.repo_operations import apply_total

        place, known = Path.cwd(), set(sys.modules)
        sys.path.insert(0, str(team))
        try:
            os.chdir(team)
            store = FeatureStore(repo_path=str(team))
            if method == "apply":
                return apply_total(store.config, team, skip_source_validation=False)
            return getattr(store, method)(*arguments, **options)
        finally:
            os.chdir(place)
            sys.path.remove(str(team))
            for name in set(sys.modules) - known:
                if name.partition(".")[0] in ("drivers", "views"):
                    del sys.modules[name]

    return call
