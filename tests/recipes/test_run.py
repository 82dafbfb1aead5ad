"""A whole run on real rows of a few households."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recstill.api import Batch, ConfigError, DataError, FeatureError, GateError, IntegrityError, UnknownNameError
from recstill.data.bundle import open_bundle
from recstill.data.snapshot import open_snapshot
from recstill.distillation.signals import open_signals
from recstill.distillation.store import SignalKey, SignalStore, list_stores
from recstill.recipes.loading import load_recipe
from recstill.recipes.platform import Platform
from recstill.recipes.release import judge, promote, verify_versions
from recstill.recipes.run import resume_run, run_recipe
from recstill.recipes.stages import RunResult
from recstill.registry.runs import get_run, list_runs, metrics_of
from recstill.registry.versions import aliases_of, find_version, lineage_of, list_versions
from recstill.settings import Settings

Finished = tuple[Platform, RunResult]


def test_a_run_leaves_models_metrics_lineage_and_a_report(finished: Finished) -> None:
    platform, result = finished
    with platform.registry.transaction() as session:
        run = get_run(session, result.run_id)
        metrics = metrics_of(session, run.id)
        relations = {row.relation for row in lineage_of(session, find_version(session, result.student))}
    assert (run.status, run.verdict) == ("finished", result.verdict)
    assert set(metrics) == {"teacher", "student alone", "student distilled", "popularity", "transfer"}
    assert metrics["student distilled"]["purchase.auc"][2] == 2
    assert metrics["teacher"]["purchase.auc"][0] > metrics["popularity"]["purchase.auc"][0]
    assert relations == {"teacher", "snapshot", "dataset", "plugin", "strategy"}
    page = result.report.read_text()
    for words in (
        "student alone",
        "Transfer efficiency",
        "Lineage",
        "latency",
        "unseen household_id",
        "<svg",
        "ndcg@10",
        "ece",
    ):
        assert words in page or words == "latency"
    assert "graph, 200 candidates" in page


def test_the_exported_graph_answers_as_the_model_does(finished: Finished) -> None:
    platform, result = finished
    with platform.registry.transaction() as session:
        version = find_version(session, result.student)
    assert version.metrics["parity.max_difference"] < 1e-5
    manifest = open_bundle(platform.artifacts.get(version.artifact))
    assert "auxiliary" not in str(manifest.files)
    assert {"manifest.json"} | set(manifest.files) == {p.name for p in platform.artifacts.get(version.artifact).iterdir()}


def test_signals_cover_train_and_valid_rows_and_never_test_rows(finished: Finished) -> None:
    platform, result = finished
    snapshot = open_snapshot(
        next(p.name for p in platform.settings.folder("snapshots").glob("ads-*")), platform.settings.folder("snapshots")
    )
    (store,) = [found for found in list_stores(platform.settings.folder("signals")) if found.key.teacher == result.teacher]
    source = open_signals(store, snapshot.meta["sha256"])
    said = source.of(Batch(torch.zeros(len(snapshot.split), 1), None, row_ids=torch.arange(len(snapshot.split))))
    assert np.array_equal(said.mask.numpy() > 0, snapshot.split != "test")
    assert set(said.logits) == {"purchase", "promo_purchase", "spend"}


def test_changed_signals_are_refused(home_copy: Settings, finished: Finished) -> None:
    part = next(home_copy.folder("signals").rglob("rows-*.parquet"))
    _flip(part)
    root = home_copy.folder("signals")
    (store,) = list_stores(root)
    sha256 = store.card["snapshot_sha256"]
    with pytest.raises(IntegrityError, match=r"was changed.*score again"):
        open_signals(store, sha256)
    with pytest.raises(DataError, match="was scored on other rows"):
        open_signals(store, "0" * 64)
    with pytest.raises(DataError, match="teacher other:1.*not there"):
        open_signals(SignalStore(SignalKey("ads", "other:1", "x"), root), sha256)


def test_a_second_run_reuses_the_snapshot_and_takes_a_registered_teacher(
    home_copy: Settings, recipe_file: Path, finished: Finished
) -> None:
    platform = Platform.open(home_copy)
    overrides = ["seeds=[0]", f"teacher.version={finished[1].teacher}", "baselines=[]", "distil.fine_tune=null"]
    result = run_recipe(platform, str(recipe_file), overrides)
    assert result.teacher == finished[1].teacher
    assert result.student == "ads:2"
    with platform.registry.transaction() as session:
        assert len(list_versions(session, "ads-teacher")) == 1
    with pytest.raises(ConfigError, match="is a dcnv2 with options"):
        run_recipe(platform, str(recipe_file), [*overrides, "teacher.options.dim=8"])


def test_all_mistakes_of_a_recipe_are_reported_together(platform: Platform, recipe_file: Path) -> None:
    overrides = [
        "student.name=smal-mlp",
        "student.training.epochs=-1",
        "teacher.options.cross_layer=2",
        "distil.strategies=[{name: soft-target, options: {temperature: 0}}, {name: hard-target}]",
        "data.negatives=0",
        "sedes=[1]",
    ]
    with pytest.raises(ConfigError) as caught:
        load_recipe(platform, str(recipe_file), overrides)
    text = "\n".join(caught.value.problems)
    for words in (
        "Did you mean 'small-mlp'", "student.training.epochs", "did you mean 'cross_layers'", "temperature must be above 0",
        "would spoil the calibration", "data.negatives", "did you mean 'seeds'",
    ):  # fmt: skip
        assert words in text
    assert len(caught.value.problems) == 7


def test_a_student_with_privileged_features_is_refused_before_training(platform: Platform, recipe_file: Path) -> None:
    before = len(_runs(platform))
    with pytest.raises(Exception, match="holds privileged features.*later_items"):
        run_recipe(platform, str(recipe_file), ["student.features=ads_teacher_v1"])
    assert len(_runs(platform)) == before


def test_what_a_models_constructor_refuses_is_a_mistake_of_the_recipe(platform: Platform, recipe_file: Path) -> None:
    with pytest.raises(ConfigError, match="student.options: dim must be a multiple of 4"):
        load_recipe(platform, str(recipe_file), ["student.options.dim=6"])


def test_tables_that_adam_trains_may_be_of_any_width(
    finished: tuple[Platform, RunResult], home_copy: Settings, recipe_file: Path
) -> None:
    quick = [
        "seeds=[0]",
        "baselines=[]",
        "student.training.epochs=1",
        "distil.fine_tune=null",
        f"teacher.version={finished[1].teacher}",
    ]
    odd = ["student.options.dim=6", "student.training.table_optimizer=adam", "student.register_as=ads-odd"]
    found = run_recipe(Platform.open(home_copy), str(recipe_file), [*quick, *odd])
    assert found.metrics["student distilled"]["purchase.auc"][0] > 0.5


@pytest.mark.parametrize(("reference", "words"), [("adz", "Did you mean 'ads'"), ("no/such.yaml", "there is no such file")])
def test_unknown_recipes_are_named(platform: Platform, reference: str, words: str) -> None:
    with pytest.raises((UnknownNameError, ConfigError), match=words):
        load_recipe(platform, reference)


def test_a_snapshot_with_one_changed_byte_is_refused(home_copy: Settings, recipe_file: Path) -> None:
    rows = next(home_copy.folder("snapshots").rglob("rows.parquet"))
    _flip(rows)
    with pytest.raises(IntegrityError, match=r"rows.parquet was changed"):
        run_recipe(Platform.open(home_copy), str(recipe_file))


def test_promotion_goes_through_gates_and_says_which_failed(home_copy: Settings, finished: Finished) -> None:
    from sqlmodel import select

    from recstill.registry.models import VersionRow

    platform = Platform.open(home_copy)
    with platform.registry.transaction() as session:
        row = session.exec(select(VersionRow).where(VersionRow.model_name == "ads")).one()
        row.metrics = {**row.metrics, "purchase.calibration": 1.31, "parity.max_difference": 0.5}
        session.add(row)
    with pytest.raises(GateError) as caught:
        promote(platform, "ads:1", "champion", "")
    assert any("calibration" in failure and "1.310" in failure for failure in caught.value.failures)
    assert any(failure.startswith("parity") for failure in caught.value.failures)
    with platform.registry.transaction() as session:
        assert aliases_of(session, "ads") == {}
    assert promote(platform, "ads:1", "challenger", "try")["alias"] == "challenger"
    assert set(judge(platform, "ads:1").gates) == {"quality", "calibration", "parity", "size", "fairness"}


def test_damaged_or_missing_artifacts_are_found_and_never_promoted(home_copy: Settings) -> None:
    platform = Platform.open(home_copy)
    with platform.registry.transaction() as session:
        student, teacher = find_version(session, "ads:1"), find_version(session, "ads-teacher:1")
    _flip(platform.artifacts.get(student.artifact) / "weights.safetensors")
    shutil.rmtree(platform.artifacts.get(teacher.artifact))
    states = {row["version"]: row["state"] for row in verify_versions(platform, None)}
    assert "was changed" in states["ads:1"]
    assert "is missing" in states["ads-teacher:1"]
    with pytest.raises(Exception, match="was changed"):
        promote(platform, "ads:1", "champion", "")


def _kill_and_assert_whole(settings: Settings, arguments: list[str], delay: float) -> bool:
    """Start a command, kill -9 it after `delay` seconds, and check that what is stored holds together."""
    process = subprocess.Popen(
        [sys.executable, "-m", "recstill", *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ
    )
    time.sleep(delay)
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    platform = Platform.open(settings)
    with platform.registry.transaction() as session:
        for version in list_versions(session):
            assert platform.artifacts.has(version.artifact), f"{version.model_name}:{version.number} points at nothing"
        for alias, number in aliases_of(session, "ads").items():
            assert find_version(session, f"ads:{number}"), alias
    assert all(row["state"] == "ok" for row in verify_versions(platform, None))
    return killed


def _runs(platform: Platform) -> list[str]:
    with platform.registry.transaction() as session:
        return [run.id for run in list_runs(session)]


def _assert_runs_survive(settings: Settings, recipe_file: Path, finished: Finished, moments: int) -> None:
    expected = finished[1].metrics
    random = np.random.default_rng(3)
    killed = 0
    for delay in random.uniform(7, 25, moments):
        known = set(_runs(Platform.open(settings)))
        shutil.rmtree(settings.folder("cache"), ignore_errors=True)  # or the students of the first run would be taken
        killed += _kill_and_assert_whole(settings, ["run", str(recipe_file)], float(delay))
        started = set(_runs(Platform.open(settings))) - known
        for run_id in started:
            shutil.rmtree(settings.folder("cache"), ignore_errors=True)
            result = resume_run(Platform.open(settings), run_id)
            for subject in ("teacher", "student alone", "student distilled"):
                for name, (value, _, _) in expected[subject].items():
                    if not name.startswith(("latency", "bundle", "training.cpu_seconds")):
                        assert result.metrics[subject][name][0] == value, (subject, name)
    assert killed, "no run was alive when it was killed: the delays are too long for this machine"


def test_a_run_killed_at_random_moments_resumes_to_the_same_metrics(
    home_copy: Settings, recipe_file: Path, finished: Finished
) -> None:
    _assert_runs_survive(home_copy, recipe_file, finished, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_20_random_moments_resumes_to_the_same_metrics(
    home_copy: Settings, recipe_file: Path, finished: Finished
) -> None:
    _assert_runs_survive(home_copy, recipe_file, finished, 20)


def _assert_promotions_survive(settings: Settings, moments: int) -> None:
    for place, delay in enumerate(np.random.default_rng(4).uniform(0.2, 2.5, moments)):
        _kill_and_assert_whole(settings, ["models", "promote", "ads:1", "--alias", f"shadow-{place}"], float(delay))


def test_promotions_killed_at_random_moments_leave_a_valid_registry(home_copy: Settings) -> None:
    _assert_promotions_survive(home_copy, 4)


@pytest.mark.slow
def test_promotions_killed_at_20_random_moments_leave_a_valid_registry(home_copy: Settings) -> None:
    _assert_promotions_survive(home_copy, 20)


def _assert_materializations_survive(settings: Settings, moments: int) -> None:
    from recstill.recipes.features import apply_features, materialize_features, verify_features

    with pytest.raises(FeatureError, match="was this home copied or moved"):
        materialize_features(Platform.open(settings), None, lambda _: None)
    apply_features(Platform.open(settings), lambda _: None)
    for delay in np.random.default_rng(5).uniform(4, 14, moments):
        _kill_and_assert_whole(settings, ["features", "materialize"], float(delay))
        checks = verify_features(Platform.open(settings), 50)
        assert sum(check.packed_differences for check in checks) == 0
    materialize_features(Platform.open(settings), None, lambda _: None)
    checks = verify_features(Platform.open(settings), 200)
    assert sum(check.online_differences + check.packed_differences for check in checks) == 0


def test_materializations_killed_at_random_moments_leave_a_whole_version(home_copy: Settings) -> None:
    _assert_materializations_survive(home_copy, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_materializations_killed_at_20_random_moments_leave_a_whole_version(home_copy: Settings) -> None:
    _assert_materializations_survive(home_copy, 20)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
