"""A team's own Feast repository is read as Feast reads it, and nothing of it is lost."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recstill.api import FeatureError
from recstill.cli import cli
from recstill.features.apply import apply, plan
from recstill.features.repo import definitions, open_repo
from recstill.recipes.features import apply_features, materialize_features, plan_features
from recstill.recipes.platform import Platform
from recstill.settings import Settings

PLUGIN = """
from pathlib import Path
import numpy as np
import pyarrow as pa
from datetime import UTC, datetime
from pydantic import BaseModel
from recstill.api import EndpointSpec, FeatureSpec, LabelSpec, TaskSpec, hookimpl

class NoData:
    name, package, version, sha256, licence, description, sources_version = "none-data", "", "1", "", "own", "own", "1"
    members = {"empty.txt": "empty.txt"}
    def build_sources(self, raw, sources): ...
    def generate(self, folder): (folder / "empty.txt").write_text("x")

class Options(BaseModel):
    n: int = 120

class Drivers:
    options = Options
    spec = TaskSpec(
        name="drivers", dataset="none-data", description="own", labels=(LabelSpec(name="y", primary=True),), groups=("grp",),
        features=(FeatureSpec(name="conv_rate", view="driver_stats"),
                  FeatureSpec(name="trips", view="driver_stats"),
                  FeatureSpec(name="city", view="driver_stats", kind="categorical", min_count=1),
                  FeatureSpec(name="driver_id", view="key", kind="categorical", min_count=1)),
        endpoint=EndpointSpec(path="/v1/drivers/score", item_key="driver_id", items_field="drivers"))
    def rows(self, raw, options):
        place = np.arange(options.n)
        when = pa.array([datetime(2026, 1, 12, tzinfo=UTC)] * options.n, pa.timestamp("us", "UTC"))
        split = np.where(place % 10 < 7, "train", np.where(place % 10 == 7, "valid", "test"))
        return pa.table({"driver_id": place % 3 + 1, "event_timestamp": when, "grp": place // 10,
                         "y": (place // 10 + place) % 2, "split": split, "sampling_rate": np.ones(options.n, np.float32)})
    def write_training_sources(self, raw, rows, sources): ...

@hookimpl
def register_datasets(): return {"none-data": NoData()}

@hookimpl
def register_tasks(): return {"drivers": Drivers()}
"""

RECIPE = """
task: drivers
seeds: [0]
teacher:
  {name: dlrm, features: SERVICE, register_as: drivers-teacher, options: {dim: 4, bottom: [8], top: [8], dropout: 0.0},
   training: {epochs: 1, batch_size: 32, bf16: false}}
student:
  {name: small-mlp, features: SERVICE, register_as: drivers, options: {dim: 4, hidden: [8]},
   training: {epochs: 1, batch_size: 32, bf16: false}}
distil: {strategies: [{name: soft-target, weight: 1.0}]}
"""


@pytest.fixture
def platform(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A platform with a task over the team's views, as an installed plugin offers it."""
    from recstill.data.fetch import fetch

    place = tmp_path / "plugin"
    (place / "drivers_case-1.0.dist-info").mkdir(parents=True)
    (place / "drivers_case.py").write_text(PLUGIN)
    (place / "drivers_case-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: drivers-case\nVersion: 1.0\n")
    (place / "drivers_case-1.0.dist-info" / "entry_points.txt").write_text("[recstill]\ndrivers-case = drivers_case\n")
    monkeypatch.syspath_prepend(str(place))
    sys.modules.pop("drivers_case", None)
    platform = Platform.open(settings)
    fetch(platform.catalog("datasets")["none-data"], settings.cache)
    return platform


def digests(repo: Path) -> dict[str, str]:
    """The digest of every file of a repository."""
    files = sorted(path for path in repo.rglob("*") if path.is_file())
    return {str(path.relative_to(repo)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_no_command_but_apply_and_materialize_changes_a_byte(
    platform: Platform, team: Path, feast_says: Callable[..., Any], tmp_path: Path
) -> None:
    from datetime import UTC, datetime

    from recstill.recipes.data import make_snapshot
    from recstill.recipes.packaging import package
    from recstill.recipes.run import plan_recipe, run_recipe

    feast_says("apply")
    feast_says("materialize", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 20, tzinfo=UTC))
    recipe = tmp_path / "drivers.yaml"
    recipe.write_text(RECIPE.replace("SERVICE", "drivers_v1"))
    (team / "views" / "riders.py").unlink()  # what `feast apply` would now delete
    before = digests(team)
    assert {change.action for change in plan_features(platform)} == set()
    plan_recipe(platform, str(recipe))
    run_recipe(platform, str(recipe))
    make_snapshot(platform, platform.task("drivers"), {"n": 90}, "drivers_v1", lambda _: None)
    for code, command in (
        (0, ["features", "plan"]), (0, ["features", "list"]), (0, ["features", "apply", "--dry-run"]),
        (0, ["run", str(recipe), "--dry-run"]),
        (0, ["tune", str(recipe), "--trials", "1"]), (1, ["demo", "--task", "drivers"]),
    ):  # fmt: skip
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == code, (command, done.output)
        assert digests(team) == before, command
    materialize_features(platform, None, lambda _: None)
    before = digests(team)
    package(platform, ["drivers:1"])
    assert digests(team) == before


def test_apply_deletes_nothing_that_plain_feast_made(platform: Platform, team: Path, feast_says: Callable[..., Any]) -> None:
    import sqlite3

    def tables() -> set[str]:
        with sqlite3.connect(team / "data" / "online.db") as connection:
            return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}

    feast_says("apply")
    before = tables()
    assert {"team_rider_stats", "team_driver_stats", "team_quality"} <= before
    (team / "views" / "riders.py").unlink()
    (team / "drivers.py").write_text((team / "drivers.py").read_text().replace('Field(name="city"', 'Field(name="town"'))
    said: list[str] = []
    changes = apply_features(platform, said.append)
    assert {(change.action, change.kind, change.name) for change in changes} >= {("update", "feature_view", "driver_stats")}
    assert "delete" not in {change.action for change in changes}
    assert any("feature_view rider_stats" in line for line in said)
    assert {view.name for view in feast_says("list_feature_views")} == {"driver_stats", "rider_stats"}
    assert [view.name for view in feast_says("list_label_views")] == ["quality"]
    assert [permission.name for permission in feast_says("list_permissions")] == ["readers"]
    assert tables() == before
    assert plan_features(platform) == []


def test_apply_deletes_what_recstill_made_and_names_the_models_that_used_it(
    platform: Platform, team: Path, feast_says: Callable[..., Any], tmp_path: Path
) -> None:
    from recstill.recipes.run import run_recipe

    apply_features(platform, lambda _: None)
    recipe = tmp_path / "drivers.yaml"
    recipe.write_text(RECIPE.replace("SERVICE", "drivers_v1"))
    result = run_recipe(platform, str(recipe))
    text = (team / "drivers.py").read_text()
    (team / "drivers.py").write_text(text[: text.index("stats = ")] + text[text.index("labels = ") :])
    asked = CliRunner().invoke(cli, ["features", "apply"], input="n\n")
    assert asked.exit_code == 1
    assert f"feature_view driver_stats (used by drivers-teacher:1, {result.student})" in asked.output
    assert "driver_stats" in {view.name for view in feast_says("list_feature_views")}
    done = CliRunner().invoke(cli, ["features", "apply", "--yes"])
    assert done.exit_code == 0, done.output
    assert "used by" in done.output
    assert {view.name for view in feast_says("list_feature_views")} == {"rider_stats"}
    assert [permission.name for permission in feast_says("list_permissions")] == ["readers"]


def test_an_own_view_of_the_home_is_not_deleted_by_a_run(home_copy: Settings, home: Path, tmp_path: Path) -> None:
    """Nor by an apply in a copy of the home: what is deleted there stays in the home that it was copied from."""
    import shutil

    from recstill.recipes.features import ensure_features, list_features

    repo = Path(shutil.copytree(home_copy.feature_repo, tmp_path / "repo"))
    (repo / "search.py").unlink()
    changed = Settings(home_copy.home, home_copy.registry_url, home_copy.artifacts_url, repo)
    platform = Platform.open(changed)
    before = {row.view for row in list_features(platform)}
    gone = {change.name for change in plan_features(platform) if change.action == "delete"}
    assert gone
    original = hashlib.sha256((home / "feast" / "online.db").read_bytes()).hexdigest()
    ensure_features(platform, lambda _: None)
    assert {row.view for row in list_features(platform)} == before
    apply_features(platform, lambda _: None)
    assert {row.view for row in list_features(platform)} == before - gone
    assert hashlib.sha256((home / "feast" / "online.db").read_bytes()).hexdigest() == original


def test_paths_mean_the_repository_and_a_second_plan_finds_nothing(settings: Settings, team: Path) -> None:
    first = apply(open_repo(settings), definitions(settings))
    assert {change.action for change in first} == {"create"}
    assert {change.name for change in first} >= {"driver_stats", "rider_stats", "quality", "readers", "drivers_v1"}
    assert (team / "data" / "registry.db").is_file()
    assert not (Path.cwd() / "data").exists()
    contents = definitions(settings)
    assert plan(open_repo(settings), contents) == plan(open_repo(settings), contents) == []


def test_a_plan_makes_no_registry_and_no_online_store(platform: Platform, team: Path) -> None:
    before = digests(team)
    assert {change.action for change in plan_features(platform)} == {"create"}
    assert digests(team) == before


def test_feastignore_is_obeyed(settings: Settings, team: Path) -> None:
    (team / ".feastignore").write_text("views\n")
    assert {view.name for view in definitions(settings).feature_views} == {"driver_stats"}


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("views/quits.py", "import sys\nsys.exit(3)\n", ["quits.py, line 2", "exit code 3"]),
        ("views/breaks.py", "import nothing_of_this_name\n", ["breaks.py, line 1", "nothing_of_this_name"]),
        ("half.py", "x = (\n", ["half.py", "SyntaxError"]),
        ("twice.py", "from feast import FeatureService\nfrom drivers import stats\n"
         "one = FeatureService(name='drivers_v1', features=[stats[['trips']]])\n", ["two feature services", "drivers_v1"]),
        ("other.py", "from feast import Project\np = Project(name='other')\n", ["'other'", "'team'"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(settings: Settings, team: Path, file: str, text: str, words: list[str]) -> None:
    (team / file).write_text(text)
    with pytest.raises(FeatureError) as caught:
        definitions(settings)
    for word in words:
        assert word in str(caught.value)


def test_two_views_of_one_name_are_refused(settings: Settings, team: Path) -> None:
    text = (team / "views" / "riders.py").read_text().replace("rider_stats", "driver_stats")
    (team / "views" / "riders.py").write_text(text)
    with pytest.raises(FeatureError, match="two views are named 'driver_stats'"):
        apply(open_repo(settings), definitions(settings))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("type: duckdb", "type: ducks", ["offline_store", "ducks"]),
        ("type: sqlite, path: data/online.db", "type: reddis", ["online_store", "reddis"]),
        ("type: sqlite, path: data/online.db", "type: cassandra", ["online_store", "cassandra", "not installed"]),
        ("data/registry.db", "${NO_SUCH_PLACE}/registry.db", ["registry needs", "NO_SUCH_PLACE"]),
        ("data/registry.db", "postgresql+psycopg://nobody@127.0.0.1:1/none", ["registry", "OperationalError"]),
        ("project: team", "project: [", ["cannot be read"]),
        ("project: team", "projekt: team", ["project"]),
    ],
)
def test_a_configuration_that_cannot_be_used_is_a_sentence_with_its_key(
    settings: Settings, team: Path, old: str, new: str, words: list[str]
) -> None:
    yaml = (team / "feature_store.yaml").read_text().replace(old, new)
    if new.startswith("postgresql"):
        yaml = yaml.replace(f"registry: {new}", f"registry: {{registry_type: sql, path: '{new}'}}")
    (team / "feature_store.yaml").write_text(yaml)
    found = CliRunner().invoke(cli, ["features", "plan"])
    assert found.exit_code == 1
    assert isinstance(found.exception, SystemExit), found.exception
    for word in ["feature_store.yaml", *words]:
        assert word in found.output


def test_an_on_demand_view_is_applied_and_a_service_of_it_refused(settings: Settings, team: Path) -> None:
    from recstill.features.repo import feature_set

    (team / "demand.py").write_text(
        "import pandas as pd\nfrom feast import FeatureService, Field\nfrom feast.types import Float64\n"
        "from feast.on_demand_feature_view import on_demand_feature_view\nfrom drivers import stats\n"
        "@on_demand_feature_view(sources=[stats], schema=[Field(name='double', dtype=Float64)], mode='pandas')\n"
        "def doubled(inputs: pd.DataFrame) -> pd.DataFrame:\n"
        "    return pd.DataFrame({'double': inputs['conv_rate'] * 2})\n"
        "with_demand = FeatureService(name='with_demand', features=[stats, doubled])\n"
    )
    apply(open_repo(settings), definitions(settings))
    store = open_repo(settings)
    assert plan(store, definitions(settings)) == []
    assert feature_set(store, "drivers_v1").features
    with pytest.raises(FeatureError, match="on-demand view 'doubled'"):
        feature_set(store, "with_demand")


@pytest.mark.parametrize(
    ("kind", "ok"),
    [("Array(Int64)", True), ("Bytes", False), ("UnixTimestamp", True), ("Json", False), ("Float64", True), ("Bool", True)],
)
def test_a_type_that_cannot_be_served_is_refused_by_plan(settings: Settings, team: Path, kind: str, ok: bool) -> None:
    name = kind.partition("(")[0]
    text = (team / "views" / "riders.py").read_text()
    text = text.replace("import Float32", f"import Float32, Int64, {name}").replace("dtype=Float32", f"dtype={kind}")
    (team / "views" / "riders.py").write_text(text)
    if ok:
        assert plan(open_repo(settings), definitions(settings))
        return
    with pytest.raises(FeatureError) as caught:
        plan(open_repo(settings), definitions(settings))
    for word in ("'rider_stats'", "'rides'", kind, "Float64"):
        assert word in str(caught.value)
