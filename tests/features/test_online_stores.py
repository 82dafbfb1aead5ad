"""The same repository on real SQLite, PostgreSQL and Redis servers: applied, materialized, read back by plain Feast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from feast_repos import write_drivers

from recstill.features.apply import apply
from recstill.features.online import latest_event, materialize
from recstill.features.repo import definitions, is_own, open_repo
from recstill.features.verify import verify_online
from recstill.settings import Settings

FEATURES = [f"driver_stats:{name}" for name in ("conv_rate", "trips", "city")]


def postgres(url: str) -> tuple[str, str]:
    """The registry and the online store of `feature_store.yaml` in one PostgreSQL database."""
    parts = urlsplit(url)
    host = parse_qs(parts.query)["host"][0]
    place = f"host: {host}, port: 5432, database: {parts.path[1:]}, db_schema: public"
    online = f"{{type: postgres, {place}, user: postgres, password: x}}"
    return f"{{registry_type: sql, path: '{url}'}}", online


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def stored(request: pytest.FixtureRequest, team: Path) -> str:
    """Let the team's repository use another online store; return its name."""
    yaml = (team / "feature_store.yaml").read_text()
    if request.param == "postgres":
        registry, online = postgres(request.getfixturevalue("postgres_url"))
        yaml = yaml.replace("data/registry.db", registry).replace("{type: sqlite, path: data/online.db}", online)
    elif request.param == "redis":
        address = urlsplit(request.getfixturevalue("redis_url"))
        online = f"{{type: redis, connection_string: '{address.hostname}:{address.port}'}}"
        yaml = yaml.replace("{type: sqlite, path: data/online.db}", online)
    (team / "feature_store.yaml").write_text(yaml)
    return str(request.param)


def test_apply_materialize_and_read_back(stored: str, settings: Settings, team: Path, feast_says: Callable[..., Any]) -> None:
    """Driver 3's row is older than the ttl; driver 2 is deleted from the source later. Both are gone from every store."""

    def read(project: str = "team") -> dict[str, list[Any]]:
        rows = [{"driver_id": number} for number in (1, 2, 3)]
        answer = feast_says("get_online_features", features=FEATURES, entity_rows=rows).to_dict()
        return {name: answer[name] for name in ("conv_rate", "trips", "city")}

    said: list[str] = []
    apply(open_repo(settings), definitions(settings))
    assert not is_own(settings)
    store = open_repo(settings, only_read=True)
    packed = materialize(store, settings.folder("online"), latest_event(store), said.append)
    assert packed.meta["failed"] == {}
    assert read() == {"conv_rate": [0.25, 0.5, None], "trips": [2**53 + 1, None, None], "city": ["Köln", None, None]}
    assert len(packed.views["driver_stats"].keys) == 2
    other = _another_project(team, settings) if stored == "redis" else None
    write_drivers(team, (1, 4), (0.25, 0.5))
    packed = materialize(store, settings.folder("online"), latest_event(store), said.append)
    assert read() == {"conv_rate": [0.25, None, None], "trips": [2**53 + 1, None, None], "city": ["Köln", None, None]}
    assert "driver_stats: 1 entities without a row are deleted from the online store" in said
    checks = {check.view: check for check in verify_online(store, settings.folder("online"))}
    assert checks["driver_stats"].online_differences == checks["driver_stats"].packed_differences == 0
    if other is not None:
        assert other() == [0.25, 0.5, None]
    assert {view.name for view in feast_says("list_feature_views")} == {"driver_stats", "rider_stats"}


def _another_project(team: Path, settings: Settings) -> Callable[[], list[Any]]:
    """Materialize the same view in a project whose name ends like the first's, on the same server; return a reader."""
    repo = team.with_name("other")
    (repo / "data").mkdir(parents=True)
    (repo / "drivers.py").write_text((team / "drivers.py").read_text())
    yaml = (team / "feature_store.yaml").read_text()
    (repo / "feature_store.yaml").write_text(yaml.replace("project: team", "project: greatteam"))
    write_drivers(repo)
    there = Settings(settings.home, settings.registry_url, settings.artifacts_url, repo)
    apply(open_repo(there), definitions(there))
    store = open_repo(there)
    materialize(store, settings.folder("other-online"), latest_event(store), lambda _: None)

    def read() -> list[Any]:
        rows = [{"driver_id": number} for number in (1, 2, 3)]
        found: list[Any] = store.get_online_features(features=FEATURES, entity_rows=rows).to_dict()["conv_rate"]
        return found

    return read
