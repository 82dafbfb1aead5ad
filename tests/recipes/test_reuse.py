"""Runs of a user's own plugin and data: what is taken from earlier runs, what is made anew, and what is refused."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from recstill.api import ConfigError, RegistryError
from recstill.cli import cli
from recstill.data.files import read_json
from recstill.recipes.loading import load_recipe
from recstill.recipes.platform import Platform
from recstill.recipes.progress import Progress
from recstill.recipes.release import promote
from recstill.recipes.run import Run, begin_run, prepare_run, resume_run, run_recipe
from recstill.recipes.stage_inputs import alone_inputs
from recstill.recipes.stages import RunResult
from recstill.recipes.staging import Stage, reasons_of
from recstill.recipes.training import train
from recstill.registry.versions import find_version, lineage_of
from recstill.settings import Settings

PLUGIN = """
from pathlib import Path
import pyarrow.parquet as pq
from pydantic import BaseModel
from recstill.api import EndpointSpec, FeatureSpec, LabelSpec, TaskSpec, hookimpl
from reuse_rows import labelled

class Data:
    name, package, version, sha256, sources_version = "reuse-data", "", "1", "", "1"
    members, licence, description = {"data.parquet": "data.parquet"}, "own", "own"
    def build_sources(self, raw, sources): pass

class Options(BaseModel):
    pass

class Task:
    options = Options
    spec = TaskSpec(
        name="reuse", dataset="reuse-data", description="made up", groups=("grp",),
        labels=(LabelSpec(name="y", primary=True),),
        features=(FeatureSpec(name="x", view="row"), FeatureSpec(name="item", view="key", kind="categorical", min_count=1)),
        endpoint=EndpointSpec(path="/v1/reuse/score", query_key="user", item_key="item", items_field="items"),
    )
    def rows(self, raw, options):
        return labelled(pq.read_table(Path(raw) / "data.parquet"))
    def write_training_sources(self, raw, rows, sources): pass

@hookimpl
def register_datasets(): return {"reuse-data": Data()}
@hookimpl
def register_tasks(): return {"reuse": Task()}
"""
HELPER = "def labelled(table):\n    return table\n"
PART = {"features": "none", "training": {"epochs": 2, "batch_size": 128, "bf16": False, "checkpoint_steps": 1}}
RECIPE = {
    "task": "reuse",
    "teacher": {"name": "dlrm", "register_as": "big", "options": {"dim": 4, "bottom": [8], "top": [8]}, **PART},
    "student": {"name": "small-mlp", "register_as": "small", "options": {"dim": 4, "hidden": [8]}, **PART},
    "distil": {"strategies": [{"name": "soft-target"}]},
    "rules": "rules.yaml",
}


def write_data(folder: Path, seed: int) -> Path:
    """A user's file of 600 rows."""
    random, count = np.random.default_rng(seed), 600
    x = random.normal(size=count).astype(np.float32)
    columns = {
        "user": random.integers(0, 20, count),
        "item": random.integers(0, 30, count),
        "x": x,
        "grp": np.arange(count) // 10,
    }
    columns["y"] = (random.random(count) < 1 / (1 + np.exp(-x))).astype(np.float32)
    columns["w"] = columns["y"].copy()
    columns |= {"split": np.repeat(["train", "valid", "test"], 200), "sampling_rate": np.ones(count, np.float32)}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "data.parquet")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an installed plugin, its data, a recipe and rules; the process stands in it."""
    folder = tmp_path_factory.mktemp("reuse")
    (folder / "reuse_plugin.py").write_text(PLUGIN)
    (folder / "reuse_rows.py").write_text(HELPER)
    info = folder / "recstill_reuse-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: recstill-reuse\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recstill]\nreuse = reuse_plugin\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "rules.yaml").write_text("- {when: 'x > 0', score: 1}\n")
    before, here = dict(os.environ), Path.cwd()
    os.environ |= {"RECSTILL_HOME": str(folder / "home"), "RECSTILL_CACHE": str(folder / "cache")}
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    yield folder
    os.chdir(here)
    sys.path.remove(str(folder))
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def first(place: Path) -> RunResult:
    """One finished run; its teacher is champion."""
    fetched(write_data(place / "a", 0))
    platform = Platform.open(Settings.from_environment())
    result = run_recipe(platform, "recipe.yaml")
    promote(platform, result.teacher, "shadow", "")
    return result


@pytest.fixture
def platform(first: RunResult) -> Platform:
    return Platform.open(Settings.from_environment())


def fetched(folder: Path) -> str:
    """Bring a folder as the data set; return what was said beside where it is."""
    result = CliRunner().invoke(cli, ["data", "fetch", "reuse-data", "--from", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stderr


def prepared(platform: Platform, *overrides: str) -> Run:
    return prepare_run(platform, *load_recipe(platform, "recipe.yaml", overrides), Progress())


def reasons(platform: Platform, run_id: str) -> dict[str, str]:
    return reasons_of(platform.settings.folder("runs", run_id))


def test_a_second_run_takes_everything_and_registers_a_student_of_its_own(platform: Platform, first: RunResult) -> None:
    again = run_recipe(platform, "recipe.yaml")
    assert (again.teacher, again.student) == (first.teacher, "small:2")
    said = reasons(platform, again.run_id)
    as_before = f"as in run {first.run_id}"
    assert {name: said[name] for name in ("pretrain", "teacher", "alone-0", "distilled-0")} == dict.fromkeys(
        ("pretrain", "teacher", "alone-0", "distilled-0"), as_before
    )
    assert again.metrics["student distilled"]["y.auc"] == first.metrics["student distilled"]["y.auc"]
    shown = CliRunner().invoke(cli, ["runs", "show", again.run_id], catch_exceptions=False).output
    assert f"alone-0: {as_before}" in shown


def test_changed_rules_make_students_anew_and_say_so(platform: Platform, place: Path, first: RunResult) -> None:
    rules = (place / "rules.yaml").read_text()
    (place / "rules.yaml").write_text("- {when: 'x > 0', score: -1}\n")
    result = run_recipe(platform, "recipe.yaml", [f"teacher.version={first.teacher}"])
    (place / "rules.yaml").write_text(rules)
    said = reasons(platform, result.run_id)
    assert said["distilled-0"].startswith("made anew, rules.yaml changed since run ")


def test_other_files_replace_those_that_are_here_and_give_another_snapshot(
    platform: Platform, place: Path, capsys: pytest.CaptureFixture
) -> None:
    before = prepared(platform).snapshot
    assert fetched(place / "a") == "", "the same files are no news"
    said = fetched(write_data(place / "b", 1))
    assert "other files than before took their place: data.parquet" in said
    assert prepared(platform).snapshot.meta["sha256"] != before.meta["sha256"]
    assert "a new snapshot: data.data.parquet changed" in capsys.readouterr().err
    shutil.rmtree(place / "cache")
    fetched(place / "a")
    assert prepared(platform).snapshot.id == before.id, "the snapshot of files that were here before is taken"


def test_a_helper_beside_the_plugin_is_the_tasks_code_too(
    platform: Platform, place: Path, capsys: pytest.CaptureFixture
) -> None:
    snapshot = prepared(platform).snapshot
    (place / "reuse_rows.py").write_text(HELPER + "# mended\n")
    assert prepared(platform).snapshot.id == snapshot.id, "made anew, and found to be the same rows"
    assert "code.recstill-reuse.module reuse_rows changed" in capsys.readouterr().err
    (place / "reuse_plugin.py").write_text(PLUGIN + "# mended\n")
    prepared(Platform.open(platform.settings))
    assert "a new snapshot: code.recstill-reuse.code changed" in capsys.readouterr().err
    (place / "reuse_rows.py").write_text(HELPER)
    (place / "reuse_plugin.py").write_text(PLUGIN)


def test_an_alias_is_resolved_once_and_kept_when_it_moves(platform: Platform, first: RunResult) -> None:
    other = run_recipe(platform, "recipe.yaml", ["teacher.training.epochs=1"])
    assert other.teacher != first.teacher
    run = prepared(platform, "teacher.version=big@shadow", "student.start_from=small:1")
    begin_run(run, run.name)
    promote(platform, other.teacher, "shadow", "")
    result = resume_run(platform, run.id)
    promote(platform, first.teacher, "shadow", "")
    assert result.teacher == first.teacher
    assert read_json(run.folder / "run.json")["asked"]["teacher.version"] == "big@shadow"
    with platform.registry.read() as session:
        rows = lineage_of(session, find_version(session, result.student))
    found = {row.relation: (row.value, row.details.get("asked")) for row in rows if row.relation in ("teacher", "start")}
    assert found == {"teacher": (first.teacher, "big@shadow"), "start": ("small:1", None)}


@pytest.mark.parametrize(("change", "words"), [
    ({"labels": {"kind": "regression"}}, "answers other labels than the task has now (label.y.kind binary → regression)"),
    ({"labels": {"kind": "multiclass", "num_classes": 4}}, "label.y.classes 1 → 4"),
    ({"labels": {"graded": True}}, "label.y.graded False → True"),
    ({"labels": {"name": "w"}}, "label.w is new"),
    ({"features": {"oov_buckets": 64}}, "reads the task's features as they were (feature.item.oov_buckets 16 → 64)"),
    ({"features": {"name": "user"}}, "it and the teacher differ in item, user"),
])  # fmt: skip
def test_a_registered_version_of_other_labels_or_features_is_refused_in_the_plan(
    platform: Platform, first: RunResult, change: dict[str, dict[str, object]], words: str
) -> None:
    task = platform.task("reuse")
    spec, update = task.spec, {}
    for name, fields in change.items():
        *others, last = getattr(spec, name)
        update[name] = (*others, last.model_copy(update=fields))
    task.spec = spec.model_copy(update=update)
    for role, override in (("teacher", f"version={first.teacher}"), ("student", f"start_from={first.student}")):
        with pytest.raises(ConfigError) as caught:
            prepared(platform, f"{role}.{override}")
        assert words.replace("the teacher", f"the {role}") in "\n".join(caught.value.problems)


def test_a_teacher_of_fewer_negatives_is_taken_as_that_alone(platform: Platform, first: RunResult) -> None:
    with pytest.raises(ConfigError, match="trained on 1 of the negatives; write that, not 0.5"):
        prepared(platform, f"teacher.version={first.teacher}", "teacher.keep_negatives=0.5")
    with pytest.raises(ConfigError, match=r"it and the teacher differ in x"):
        prepared(platform, f"teacher.version={first.teacher}", "teacher.without=[x]")


def test_a_stage_that_finished_under_other_conditions_is_not_gone_on_from(platform: Platform, first: RunResult) -> None:
    path = platform.settings.folder("runs", first.run_id) / "inputs" / "alone-0.json"
    kept = path.read_text()
    path.write_text(kept.replace('"threads": 1', '"threads": 7'))
    with pytest.raises(RegistryError, match=r"cannot go on: since it did alone-0, threads 7 → 1. Start it again"):
        resume_run(platform, first.run_id)
    path.unlink()
    with pytest.raises(RegistryError, match="begun by an earlier version of recstill"):
        resume_run(platform, first.run_id)
    path.write_text(kept)


def test_results_of_an_earlier_version_are_told_of_once_and_not_taken(
    platform: Platform, capsys: pytest.CaptureFixture
) -> None:
    platform.settings.folder("cache", "students", "0123")
    run_recipe(platform, "recipe.yaml")
    assert "holds students of an earlier version" in capsys.readouterr().err
    run_recipe(platform, "recipe.yaml")
    assert "holds students of an earlier version" not in capsys.readouterr().err


def test_a_damaged_result_is_named_and_made_again(platform: Platform, capsys: pytest.CaptureFixture) -> None:
    run = prepared(platform)
    weights = run.journal.find("reuse/alone-0", alone_inputs(run, 0)).folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    begin_run(run, run.name)
    inputs = alone_inputs(run, 0)
    run.stage(
        Stage("alone-0", inputs, lambda: train(run, "alone-0", "student", 0), {"weights.safetensors": run.weights("alone-0")})
    )
    assert "alone-0: the stored result was damaged and is made again" in capsys.readouterr().err
    assert run.weights("alone-0").read_bytes() == content


def test_weights_that_were_damaged_in_a_stopped_run_are_made_again(platform: Platform, capsys: pytest.CaptureFixture) -> None:
    run = prepared(platform)
    begin_run(run, run.name)
    products = {"weights.safetensors": run.weights("alone-0")}
    stage = Stage("alone-0", alone_inputs(run, 0), lambda: train(run, "alone-0", "student", 0), products)
    found, content = run.stage(stage), products["weights.safetensors"].read_bytes()
    assert run.stage(stage) == found
    with products["weights.safetensors"].open("r+b") as file:  # in place: the journal's file is the same
        file.seek(-1, os.SEEK_END)
        file.write(bytes([content[-1] ^ 1]))
    assert run.stage(stage)["metrics"] == found["metrics"]
    assert products["weights.safetensors"].read_bytes() == content
    said = capsys.readouterr().err
    assert "alone-0: what it left in this run was damaged and is made again" in said
    assert "alone-0: the stored result was damaged and is made again" in said


def test_another_registrys_version_of_the_same_name_is_no_result(
    platform: Platform, place: Path, first: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(platform.settings, registry_url=f"sqlite:///{place / 'other.db'}")
    with monkeypatch.context() as patch:
        patch.setenv("RECSTILL_REGISTRY_URL", settings.registry_url)
        assert CliRunner().invoke(cli, ["registry", "init", "--yes"], catch_exceptions=False).exit_code == 0
    other = Platform.open(settings)
    theirs = run_recipe(other, "recipe.yaml", ["teacher.training.epochs=1"])
    assert theirs.teacher == first.teacher, "the same name and number"
    again = run_recipe(other, "recipe.yaml")
    assert again.teacher == "big:2"
    assert read_json(other.settings.folder("runs", again.run_id) / "state" / "pretrain.json")["reused_from"]


def test_the_cost_of_a_killed_attempt_counts(platform: Platform) -> None:
    run = prepared(platform, "student.training.epochs=3", "student.training.patience=3")
    begin_run(run, run.name)

    def stop(epoch: int, _score: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    run.watch = stop
    stage = Stage("alone-0", alone_inputs(run, 0), lambda: train(run, "alone-0", "student", 0), is_shared=False)
    with pytest.raises(KeyboardInterrupt):
        run.stage(stage)
    run.watch = None
    found = run.stage(stage)
    assert run.earlier_cpu_seconds > 0
    assert found["cpu_seconds"] > run.earlier_cpu_seconds
    assert len(found["history"]) == 3
