"""Gates in a promotion: bounds of a task or recipe, gates that break, and versions that are served without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from recstill.api import ConfigError, GateError
from recstill.cli import cli
from recstill.data.bundle import bundle_size, open_bundle, served_size
from recstill.recipes.gating import bounds_of, ungated, was_promoted
from recstill.recipes.loading import load_recipe
from recstill.recipes.platform import Platform
from recstill.recipes.release import judge, promote
from recstill.recipes.stages import RunResult
from recstill.registry.models import VersionRow
from recstill.registry.plugins import register_plugin
from recstill.registry.versions import find_version
from recstill.settings import Settings

GATES = """
import sys
from recstill.api import GateResult, hookimpl

def raises(candidate):
    return GateResult(candidate.metrics["other.auc"] > 0.5, "fine")

def leaves(candidate):
    sys.exit(3)

def talks(candidate):
    return "it is fine"

def mumbles(candidate):
    return GateResult("no", "it is not fine")

def bribes(candidate):
    for name in candidate.metrics:
        candidate.metrics[name] = 1.0
    return GateResult(True, "fine")

@hookimpl
def register_gates():
    return {"raises": raises, "leaves": leaves, "talks": talks, "mumbles": mumbles, "a-bribe": bribes}
"""


@pytest.fixture
def broken_gates(home_copy: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A finished home in which a plugin with three bad gates is registered."""
    from recstill.plugins.manager import load_plugins

    info = tmp_path / "site" / "bad_gates-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "bad_gates.py").write_text(GATES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-gates\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recstill]\nbad-gates = bad_gates\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    platform = Platform.open(home_copy)
    with platform.registry.transaction() as session:
        plugin = next(plugin for plugin in load_plugins().loaded if plugin.name == "bad-gates")
        register_plugin(platform.registry, session, plugin)
    return Platform.open(home_copy)


def test_a_gate_that_raises_has_failed_with_its_reason(broken_gates: Platform, tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        promote(broken_gates, "ads:1", "champion", "")
    text = "\n".join(caught.value.failures)
    assert "raises: Plugin 'bad-gates' failed in gate raises: KeyError: 'other.auc'" in text
    assert "leaves: Plugin 'bad-gates' failed in gate leaves: it called sys.exit(3)" in text
    assert "talks: plugin 'bad-gates' answered str, not a GateResult" in text
    assert "mumbles: plugin 'bad-gates' answered `passed` of type str, which is neither True nor False" in text
    version, results, _ = judge(broken_gates, "ads:1")
    calibration = version.measured["purchase.calibration"]
    assert isinstance(calibration, float)
    assert f"{calibration:.3f}" in results["calibration"].reason  # as measured, not as another gate left it
    assert {"quality", "calibration", "parity", "size", "fairness"} <= set(results)
    (tmp_path / "site" / "bad_gates.py").write_text("raise RuntimeError('gone')")
    import sys

    sys.modules.pop("bad_gates", None)
    with pytest.raises(GateError, match="gates of bad-gates: they cannot be asked"):
        promote(Platform.open(broken_gates.settings), "ads:1", "champion", "")


def test_the_bounds_of_task_and_recipe_are_checked_before_anything_trains(platform: Platform, recipe_file: Path) -> None:
    _, recipe = load_recipe(platform, str(recipe_file), ["gates={size: {min_ratio: 2}, quality: {tolerance: 0.01}}"])
    task = platform.task("ads").spec.model_copy(update={"gates": {"size": {"min_ratio": 5.0}, "parity": {"limit": 1e-4}}})
    assert bounds_of(task, recipe) == {
        "size": {"min_ratio": 2.0}, "parity": {"limit": 1e-4}, "quality": {"tolerance": 0.01},
    }  # fmt: skip
    for bounds, words in {
        "{sise: {min_ratio: 2}}": "gates: .*Did you mean 'size'",
        "{size: {max_ratio: 2}}": "gates.size.max_ratio: unknown option",
        "{size: {min_ratio: .nan}}": "gates.size.min_ratio: ",
        "{size: {min_ratio: true}}": "gates.size.min_ratio: ",
        "{size: {min_ratio: small}}": "gates.size.min_ratio: ",
    }.items():
        with pytest.raises(ConfigError, match=words):
            load_recipe(platform, str(recipe_file), [f"gates={bounds}"])


def test_a_version_keeps_its_bounds_and_baselines(home_copy: Settings, finished: tuple[Platform, RunResult]) -> None:
    platform = Platform.open(home_copy)
    with platform.registry.transaction() as session:
        version = find_version(session, "ads:1")
        auc = version.measured["purchase.auc"]
        assert isinstance(auc, float)
        assert version.baselines["popularity"]["purchase.auc"] == finished[1].metrics["popularity"]["purchase.auc"][0]
        row = session.get(VersionRow, version.id)
        assert row is not None
        row.baselines = {"popularity": {"purchase.auc": auc + 0.01}}
        session.add(row)
    results = judge(platform, "ads:1")[1]
    assert not results["quality"].passed
    assert "baseline popularity" in results["quality"].reason
    folder = platform.artifacts.get(version.artifact)
    assert open_bundle(folder).gates == {}
    assert bundle_size(folder) - served_size(folder) == (folder / "README.md").stat().st_size
    assert f"{served_size(folder):,} bytes" in results["size"].reason


def test_package_and_serve_say_that_a_version_has_not_passed_its_gates(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    with platform.registry.transaction() as session:
        row = find_version(session, "ads:1")
        good = {**row.metrics, "purchase.auc": 0.7}
        good |= dict.fromkeys((name for name in good if name.endswith(".calibration")), 1.0)
        row.metrics = {**good, "purchase.calibration": 1.31}
        session.add(row)
    assert "ads:1 has not passed its gates: calibration: purchase 1.310" in ungated(platform, ["ads:1"])[0]
    assert "is not in this registry" in ungated(platform, ["elsewhere:4"])[0]
    done = CliRunner().invoke(cli, ["package", "ads:1", "-o", "json"])
    assert done.exit_code == 0, done.output
    assert "warning: ads:1 has not passed its gates: calibration" in done.stderr
    assert json.loads(done.stdout)["serves"] == {"ads": "ads:1"}
    with platform.registry.transaction() as session:
        row = find_version(session, "ads:1")
        row.metrics = good
        session.add(row)
    results = judge(platform, "ads:1")[1]
    assert [name for name, result in results.items() if not result.passed] == []
    assert "ads:1 was never promoted; its gates would let it pass" in ungated(platform, ["ads:1"])[0]
    promote(platform, "ads:1", "champion", "")
    assert was_promoted(platform, "ads:1")
    assert ungated(platform, ["ads:1"]) == []
