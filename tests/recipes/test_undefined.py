"""A run whose metrics mean nothing ends like any other: null with the reason, in the registry, the report and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from recstill.cli import cli
from recstill.data.fetch import fetch
from recstill.recipes.platform import Platform
from recstill.recipes.release import judge
from recstill.recipes.run import run_recipe
from recstill.registry.runs import get_run, metrics_of
from recstill.registry.versions import find_version
from recstill.settings import Settings

PLUGIN = """
from dataclasses import dataclass, field
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from recstill.api import DecisionSpec, EndpointSpec, FeatureSpec, LabelSpec, TaskSpec, hookimpl

@dataclass(frozen=True)
class OddData:
    name: str = "odd-data"
    package: str = ""
    version: str = "1"
    sha256: str = ""
    members: dict = field(default_factory=lambda: {"empty.txt": "empty.txt"})
    licence: str = "made up"
    description: str = "made up"
    sources_version: str = "1"

    def build_sources(self, raw, sources): ...

    def generate(self, folder):
        (folder / "empty.txt").write_text("x")

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

class OddTask:
    options = Options
    spec = TaskSpec(
        name="odd", dataset="odd-data", description="every group has one row, and the second label one class in the test rows",
        labels=(LabelSpec(name="y", primary=True), LabelSpec(name="late"), LabelSpec(name="unknown")),
        features=(FeatureSpec(name="x", view="row"), FeatureSpec(name="item", view="key", kind="categorical", min_count=1)),
        groups=("row",), slices=("part", "ratio", "day", "flag"),
        fairness=("sex",), decision=DecisionSpec(bands=(0.001, 0.999)),
        endpoint=EndpointSpec(path="/v1/odd/score", query_key="user", item_key="item", items_field="items"),
    )

    def rows(self, raw, options):
        random, n = np.random.default_rng(0), 600
        x = random.normal(size=n).astype(np.float32)
        y = (random.random(n) < 1 / (1 + np.exp(-x))).astype(np.float32)
        split = np.array(["train"] * 400 + ["valid"] * 100 + ["test"] * 100)
        part = np.where(np.arange(n) % 50 == 0, "rare", "usual")
        y[part == "rare"] = np.arange((part == "rare").sum()) % 2 * (split[part == "rare"] != "test")
        return pa.table({
            "user": random.integers(0, 20, n), "item": random.integers(0, 30, n), "x": x, "y": y, "row": np.arange(n),
            "late": np.where(split == "test", 0, x > 1).astype(np.float32),
            "unknown": np.where(split == "test", np.nan, x > 0).astype(np.float32),
            "ratio": np.where(x > 0, 0.1, 0.7).astype(np.float32), "flag": pa.array([True, False, None] * 200),
            "day": pa.array((x > 0).astype(np.int64) * 86_400_000_000, pa.timestamp("us", "UTC")),
            "part": part, "sex": np.zeros(n), "split": split, "sampling_rate": np.ones(n, np.float32),
            "event_timestamp": pa.array(np.arange(n) * 1_000_000, pa.timestamp("us", "UTC")),
        })

    def write_training_sources(self, raw, rows, sources): ...

@hookimpl
def register_datasets():
    return {"odd-data": OddData()}

@hookimpl
def register_tasks():
    return {"odd": OddTask()}
"""
RECIPE = """
task: odd
seeds: [0, 1]
teacher:
  {name: dlrm, features: none, register_as: odd-teacher, options: {dim: 4, bottom: [8], top: [8]}, training: {epochs: 1}}
student:
  {name: small-mlp, features: none, register_as: odd, options: {dim: 4, hidden: [8]}, training: {epochs: 1}}
distil: {strategies: [{name: soft-target, weight: 1.0}]}
"""
EXPECTED = {
    "y.gauc": "no group has both a positive and a negative row",
    "late.auc": "all 100 labels are negative",
    "late.calibration": "the labels add up to 0",
    "late.ndcg@10": "no group has a row with a label above 0",
    "late.ne": "all 100 labels are 0, so their entropy is 0",
    "unknown.auc": "there is no row whose label is known",
    "slices.part.rare": "all 2 labels are negative",
    "fairness.sex.auc_1": "there is no row whose label is known",
    "fairness.sex.auc_gap": "group 1: there is no row whose label is known",
    "bands.A.label": "no row has a score in this band",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A home in which a task with such rows has run, through a plugin of its own."""
    site, home = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("odd")
    info = site / "odd_task-1.0.dist-info"
    info.mkdir()
    (site / "odd_task.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-task\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recstill]\nodd-task = odd_task\n")
    (home / "odd.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("RECSTILL_HOME", str(home))
        patch.setenv("RECSTILL_CACHE", str(home / "cache"))
        platform = Platform.open(Settings.from_environment())
        fetch(platform.catalog("datasets")["odd-data"], platform.settings.cache)
        run_recipe(platform, str(home / "odd.yaml"))
        yield platform


def test_the_registry_has_null_with_the_reason(odd: Platform) -> None:
    with odd.registry.transaction() as session:
        version = find_version(session, "odd:1")
        run, metrics = get_run(session, version.run_id), metrics_of(session, version.run_id)
        stored = session.execute(text("select name, value, reason from metric where subject = 'teacher'")).all()
    assert run.status == "finished"
    assert run.verdict
    for name, reason in EXPECTED.items():
        assert (name, None, reason) in [tuple(row) for row in stored]
        assert str(metrics["student distilled"][name][0]).startswith(reason)
        assert version.metrics[name] is None
        assert version.undefined[name] == reason
    numbers = [value for values in metrics.values() for value, _, _ in values.values() if not isinstance(value, str)]
    assert all(math.isfinite(value) for value in numbers)
    assert math.isfinite(metrics["teacher"]["y.auc"][0])
    slices = {name: value for name, (value, _, _) in metrics["teacher"].items() if name.startswith("slices.")}
    assert {name.removeprefix("slices.") for name in slices} == {
        "part.rare", "part.usual", "ratio.0.1", "ratio.0.7", "flag.True", "flag.False", "flag.(missing)",
        "day.1970-01-01T00:00:00.000000", "day.1970-01-02T00:00:00.000000",
    }  # fmt: skip
    assert [name for name, value in slices.items() if isinstance(value, str)] == ["slices.part.rare"]


def test_report_gates_and_json_say_why(odd: Platform) -> None:
    with odd.registry.transaction() as session:
        run = get_run(session, find_version(session, "odd:1").run_id)
    page = Path(run.report).read_text()
    assert "<td>undefined</td>" in page
    assert "<td>nan" not in page
    assert EXPECTED["y.gauc"] in page
    for heading in ("Groups", "Score bands", "Slices of the primary metric"):
        assert f"<h2>{heading}</h2>" in page
    results = judge(odd, "odd:1")[1]
    assert not results["calibration"].passed
    assert "late.calibration is undefined: the labels add up to 0" in results["calibration"].reason
    assert not results["fairness"].passed
    assert os.environ["RECSTILL_HOME"] == str(odd.settings.home)
    shown = {words[0]: _json(*words) for words in (("models", "show", "odd:1"), ("runs", "show", run.id))}
    assert shown["models"]["metrics"]["y.gauc"] is None
    assert shown["models"]["undefined"]["y.gauc"] == EXPECTED["y.gauc"]
    assert shown["runs"]["teacher"]["y.gauc"] == {"value": None, "reason": EXPECTED["y.gauc"], "seeds": 1}
    for words in (("models", "compare", "odd:1", "odd-teacher:1"), ("runs", "compare", run.id)):
        assert next(row for row in _json(*words) if row["metric"] == "y.gauc")


def _json(*words: str) -> object:
    done = CliRunner().invoke(cli, [*words, "-o", "json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout, parse_constant=_refuse)


def _refuse(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")
