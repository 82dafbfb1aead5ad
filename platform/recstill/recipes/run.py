"""Run a recipe: pretrain, score, distil, fine-tune, compare, export, register, report."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from recstill.api.errors import FeatureError, RegistryError
from recstill.data.files import read_json, write_json
from recstill.data.snapshot import Snapshot, open_snapshot
from recstill.distillation.signals import SignalKey, StoredSignals, has_signals, read_signals, write_signals
from recstill.evaluation.metrics import evaluate_predictions
from recstill.features.featureset import FeatureSet
from recstill.recipes.config import Recipe
from recstill.recipes.data import snapshot_for
from recstill.recipes.exporting import check_bundle, export_bundle
from recstill.recipes.features import open_store
from recstill.recipes.loading import load_recipe
from recstill.recipes.progress import Progress
from recstill.recipes.registering import register_student, register_teacher
from recstill.recipes.rows import RunRows
from recstill.recipes.summary import metric_table, transfer_of, write_run_report
from recstill.recipes.training import load_trained, train
from recstill.registry.runs import add_run, finish_run, get_run, record_metrics
from recstill.training.loop import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from recstill.api.task import Task
    from recstill.recipes.platform import Platform


@dataclass
class Run:
    """One execution. What a finished stage found lies in `state/`, so that a resumed run skips it."""

    platform: Platform
    name: str
    recipe: Recipe
    id: str
    task: Task
    snapshot: Snapshot
    teacher_features: FeatureSet
    student_features: FeatureSet
    progress: Progress

    @property
    def folder(self) -> Path:
        return self.platform.settings.folder("runs", self.id)

    @cached_property
    def rows(self) -> RunRows:
        return RunRows(self.snapshot, self.task.spec, self.teacher_features, self.student_features)

    def weights(self, name: str) -> Path:
        """Where the weights of a trained model lie."""
        return self.platform.settings.folder("runs", self.id, "weights") / f"{name}.safetensors"

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what the stage found, doing its work unless an earlier attempt finished it."""
        path = self.folder / "state" / f"{name}.json"
        if path.is_file():
            return dict(read_json(path))
        self.platform.plugins.hook.before_stage(run_id=self.id, stage=name)
        started = time.monotonic()
        with self.progress.stage(name):
            found = work()
        write_json(path, {**found, "seconds": time.monotonic() - started})
        self.platform.plugins.hook.after_stage(run_id=self.id, stage=name, seconds=time.monotonic() - started)
        return dict(read_json(path))


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves."""

    run_id: str
    student: str
    teacher: str
    report: Path
    verdict: str
    metrics: dict[str, dict[str, tuple[float, float, int]]]


def run_recipe(
    platform: Platform, reference: str, overrides: Sequence[str] = (), progress: Progress | None = None
) -> RunResult:
    """Run a recipe by name or path. Everything wrong with it is reported before anything trains."""
    progress = progress or Progress()
    name, recipe = load_recipe(platform, reference, overrides)
    task = platform.task(recipe.task)
    snapshot = snapshot_for(platform, task, recipe.data, recipe.teacher.features, progress.say)
    teacher, student = _feature_sets(platform, task, recipe)
    run_id = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run = Run(platform, name, recipe, run_id, task, snapshot, teacher, student, progress)
    config = recipe.model_dump(mode="json")
    resume = {"recipe": name, "config": config, "snapshot": snapshot.id}
    write_json(run.folder / "run.json", {**resume, "teacher": teacher.to_json(), "student": student.to_json()})
    with platform.registry.transaction() as session:
        add_run(session, run_id, name, task.spec.name, config)
    return _execute(run)


def resume_run(platform: Platform, run_id: str, progress: Progress | None = None) -> RunResult:
    """Go on with a run that was killed; it ends with the same metrics as an unbroken one."""
    with platform.registry.transaction() as session:
        run_id = get_run(session, run_id).id
    folder = platform.settings.folder("runs", run_id)
    if not (folder / "run.json").is_file():
        raise RegistryError(f"Run {run_id} left nothing to resume in {folder}. Start it again with `recstill run`.")
    saved = read_json(folder / "run.json")
    recipe = Recipe.model_validate(saved["config"])
    snapshot = open_snapshot(saved["snapshot"], platform.settings.folder("snapshots"))
    teacher, student = (FeatureSet.from_json(saved[role]) for role in ("teacher", "student"))
    task = platform.task(recipe.task)
    return _execute(Run(platform, saved["recipe"], recipe, run_id, task, snapshot, teacher, student, progress or Progress()))


def _feature_sets(platform: Platform, task: Task, recipe: Recipe) -> tuple[FeatureSet, FeatureSet]:
    from recstill.features.repo import feature_set

    store = open_store(platform)
    teacher, student = feature_set(store, recipe.teacher.features), feature_set(store, recipe.student.features)
    if student.privileged:
        raise FeatureError(
            f"student.features: service {student.service!r} holds privileged features, which are not there at request time: "
            f"{', '.join(student.privileged)}. Use them in the teacher only."
        )
    for features in (teacher, student):
        features.select(task.spec)
    return teacher, student


def _execute(run: Run) -> RunResult:
    lock = FileLock(run.folder / "run.lock", timeout=0)
    try:
        with lock:
            return _run_stages(run)
    except Timeout as error:
        raise RegistryError(f"Run {run.id} is being worked on by another process.") from error
    except BaseException as error:
        with run.platform.registry.transaction() as session:
            finish_run(session, run.id, "failed", error=f"{type(error).__name__}: {error}")
        run.progress.say(f"run {run.id} stopped; go on with `recstill run --resume {run.id}`")
        raise


def _run_stages(run: Run) -> RunResult:
    torch.set_num_threads(run.recipe.threads)
    seeds = run.recipe.seeds
    run.progress.say(f"run {run.id}: {run.snapshot.meta['num_rows']:,} rows of {run.snapshot.id}")
    if run.recipe.teacher.version:
        taught = run.stage("teacher", lambda: _registered_teacher(run))
    else:
        run.stage("pretrain", lambda: train(run, "teacher", "teacher", seeds[0]))
        taught = run.stage("teacher", lambda: _export_teacher(run))
    signals = _score(run, taught["version"])
    for name in run.recipe.baselines:
        run.stage(f"baseline-{name}", lambda name=name: _baseline(run, name))  # type: ignore[misc]
    for seed in seeds:
        run.stage(f"alone-{seed}", lambda seed=seed: train(run, f"alone-{seed}", "student", seed))  # type: ignore[misc]
        run.stage(f"distilled-{seed}", lambda seed=seed: train(run, f"distilled-{seed}", "student", seed, signals))  # type: ignore[misc]
    exported = run.stage("student", lambda: _export_student(run, taught))
    table = metric_table(run)
    transfer = transfer_of(run)
    report = write_run_report(run, table, transfer, exported)
    with run.platform.registry.transaction() as session:
        for subject, values in table.items():
            record_metrics(session, run.id, subject, values)
        finish_run(session, run.id, "finished", report=str(report), verdict=transfer.verdict)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return RunResult(run.id, exported["version"], taught["version"], report, transfer.verdict, table)


def _export_teacher(run: Run) -> dict[str, Any]:
    trained = run.stage("pretrain", dict)
    folder = export_bundle(run, "teacher", "teacher", run.recipe.seeds[0], trained["metrics"])
    checked = check_bundle(run, "teacher", "teacher", folder)
    metrics = {**trained["metrics"], **checked}
    return {"version": register_teacher(run, folder, trained, metrics), "metrics": metrics, "bundle": str(folder)}


def _registered_teacher(run: Run) -> dict[str, Any]:
    from recstill.recipes.registering import fetch_teacher

    return fetch_teacher(run, run.recipe.teacher.version)


def _score(run: Run, teacher: str) -> StoredSignals:
    key = SignalKey(run.task.spec.name, teacher, run.snapshot.id)
    root = run.platform.settings.folder("signals")

    def score() -> dict[str, Any]:
        model = load_trained(run, "teacher", "teacher")
        parts = [run.rows.tensors("teacher", split) for split in ("train", "valid")]
        logits = [predict(model, part, bf16=run.recipe.teacher.training.bf16) for part in parts]
        row_ids = torch.cat([part.row_ids for part in parts]).numpy()
        together = {label: torch.cat([part[label] for part in logits]).numpy() for label in logits[0]}
        write_signals(key, row_ids, together, run.snapshot.meta["num_rows"], root)
        return {"coverage": read_signals(key, root).coverage}

    if not has_signals(key, root):
        (run.folder / "state" / "score.json").unlink(missing_ok=True)
    run.stage("score", score)
    run.rows.forget("teacher")
    return read_signals(key, root)


def _baseline(run: Run, name: str) -> dict[str, Any]:
    train_data, valid, test = run.rows.baseline_data()
    fit = run.platform.catalog("baselines")[name]
    labels = run.task.spec.labels
    predictions = fit(train_data, valid, test, labels, run.recipe.seeds[0], lambda text: run.progress.say(f"{name}: {text}"))
    return {"metrics": evaluate_predictions(labels, test.labels, predictions, run.rows.groups("test"))}


def _export_student(run: Run, taught: dict[str, Any]) -> dict[str, Any]:
    seed = run.recipe.seeds[0]
    name = f"distilled-{seed}"
    trained = run.stage(name, dict)
    folder = export_bundle(run, "student", name, seed, trained["metrics"])
    metrics = {**trained["metrics"], **check_bundle(run, "student", name, folder)}
    version = register_student(run, folder, trained, metrics, taught)
    return {"version": version, "metrics": metrics, "bundle": str(folder), "unseen": run.rows.unseen("test")}
