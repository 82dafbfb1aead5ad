"""The stages of a run, in order: pretrain, score, distil, fine-tune, compare, export, register, report."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from recstill.data.bundle import bundle_size
from recstill.recipes.columns import bundle_columns, latency_of, open_columns, reads_columns, test_columns, train_columns
from recstill.recipes.exporting import bundle_card, check_bundle, export_bundle
from recstill.recipes.judging import judge_of, row_metrics
from recstill.recipes.planning import hidden_asked
from recstill.recipes.pruning import prune
from recstill.recipes.quantising import quantise
from recstill.recipes.registering import fetch_teacher, register_student, register_teacher, start_weights
from recstill.recipes.reuse import train_once
from recstill.recipes.summary import metric_table, transfer_of, write_run_report
from recstill.recipes.teaching import open_teachers, score_teacher, store_of
from recstill.recipes.training import load_trained, train
from recstill.registry.runs import finish_run, record_metrics

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.api.measured import Measured
    from recstill.recipes.run import Run


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves."""

    run_id: str
    student: str
    teacher: str
    report: Path
    verdict: str
    metrics: dict[str, dict[str, tuple[Measured, float, int]]]


def run_stages(run: Run) -> RunResult:
    """Do every stage that is not done yet, then write the report and the registry's rows."""
    torch.set_num_threads(run.recipe.threads)
    seeds = run.recipe.seeds
    run.progress.say(f"run {run.id}: {run.snapshot.meta['num_rows']:,} rows of {run.snapshot.id}")
    if run.recipe.student.start_from:  # a resumed run may train nothing, and must know the transform all the same
        start_weights(run, "student", run.recipe.student.start_from)
    taught, versions = taught_versions(run)
    for name in run.recipe.baselines:
        run.stage(f"baseline-{name}", lambda name=name: _baseline(run, name))  # type: ignore[misc]
    for seed in seeds:
        run.stage(f"alone-{seed}", lambda seed=seed: train_once(run, f"alone-{seed}", seed))  # type: ignore[misc]
    source = functools.cache(lambda: open_teachers(run, versions))
    for seed in seeds:
        name = f"distilled-{seed}"
        run.stage(name, lambda name=name, seed=seed: train_once(run, name, seed, list(versions), source))  # type: ignore[misc]
        if run.recipe.prune is not None:
            run.stage(f"pruned-{seed}", lambda seed=seed: prune(run, seed, source()))  # type: ignore[misc]
        if run.recipe.quantise is not None:
            run.stage(f"quantised-{seed}", lambda seed=seed: quantise(run, seed, source()))  # type: ignore[misc]
    exported = run.stage("student", lambda: _export_student(run, taught))
    table = metric_table(run)
    transfer = transfer_of(run)
    report = write_run_report(run, table, transfer, exported)
    with run.platform.registry.transaction() as session:
        for subject, values in table.items():
            record_metrics(session, run.id, subject, values)
        record_metrics(session, run.id, "transfer", transfer.as_metrics(len(seeds)))
        finish_run(session, run.id, "finished", report=str(report), verdict=transfer.verdict)
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    return RunResult(run.id, exported["version"], taught["teacher"]["version"], report, transfer.verdict, table)


def taught_versions(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, str]]]:
    """Train, or take from the registry, every teacher, and score it. Return what the stages found by role, and
    {name of the signals: (role, weights)}."""
    taught, versions = {}, {}
    for role, part in run.recipe.all_teachers.items():
        suffix = role.removeprefix("teacher")
        if part.version:
            taught[role] = run.stage(role, lambda role=role: _registered_teacher(run, role))  # type: ignore[misc]
            if role not in run.rows.adopted:  # a resumed run skips the stage, and must know the transform all the same
                fetch_teacher(run, role)
        else:
            name = f"pretrain{suffix}"
            run.stage(name, lambda role=role: _pretrain(run, role))  # type: ignore[misc]
            taught[role] = run.stage(role, lambda role=role: _export_teacher(run, role))  # type: ignore[misc]
        version = taught[role]["version"]
        members = {version: role} | {f"{version}@{epoch}": f"{role}@{epoch}" for epoch in part.checkpoints}
        for key, weights in members.items():
            versions[key] = (role, weights)
            if not run.recipe.distil.live:
                _score(run, role, weights, key)
        if not run.recipe.distil.live:
            run.rows.forget(role)
    return taught, versions


def _pretrain(run: Run, role: str) -> dict[str, Any]:
    seed = run.recipe.seeds[0]
    return train_columns(run, role, seed) if reads_columns(run.factory(role)) else train(run, role, role, seed)


def _score(run: Run, role: str, weights: str, version: str) -> None:
    stage, store = "score" + weights.removeprefix("teacher"), store_of(run, version)
    hidden = hidden_asked(run) if role == "teacher" else ()  # strategies read the first teacher's vectors only
    locks = run.platform.settings.folder("signals", ".locks")
    # Two runs that need the same signals: one scores, the other finds them.
    with FileLock(locks / f"{store.key.task}-{store.key.teacher}-{store.key.snapshot}.lock"):
        if not store.is_complete:
            (run.folder / "state" / f"{stage}.json").unlink(missing_ok=True)
        run.stage(stage, lambda: score_teacher(run, role, weights, version, hidden))


def _export_teacher(run: Run, role: str) -> dict[str, Any]:
    trained = run.stage(f"pretrain{role.removeprefix('teacher')}", dict)
    if reads_columns(run.factory(role)):
        folder = bundle_columns(run, role, trained["num_parameters"], bundle_card(run, role, trained["metrics"]))
        metrics = {**trained["metrics"], "bundle.bytes": float(bundle_size(folder))}
        metrics["latency.ms_per_200"] = latency_of(run, role)
    else:
        folder = export_bundle(run, role, role, run.recipe.seeds[0], trained["metrics"])
        metrics = {**trained["metrics"], **check_bundle(run, role, role, folder)}
    return {
        "version": register_teacher(run, role, folder, trained, metrics),
        "metrics": metrics,
        "bundle": str(folder),
        "num_parameters": trained["num_parameters"],
    }


def _registered_teacher(run: Run, role: str) -> dict[str, Any]:
    found = fetch_teacher(run, role)
    if reads_columns(run.factory(role)):
        judged = test_columns(run, role, open_columns(run, role)) | {"latency.ms_per_200": latency_of(run, role)}
    else:
        judged = judge_of(run.rows, role).test(load_trained(run, role, role))
    return {**found, "metrics": {**found["metrics"], **judged}}


def _baseline(run: Run, name: str) -> dict[str, Any]:
    train_data, valid, test = run.rows.baseline_data()
    fit = run.platform.catalog("baselines")[name]
    labels = run.task.spec.labels
    predictions = fit(train_data, valid, test, labels, run.recipe.seeds[0], lambda text: run.progress.say(f"{name}: {text}"))
    return {"metrics": row_metrics(run.rows, predictions)}


def _export_student(run: Run, taught: dict[str, dict[str, Any]]) -> dict[str, Any]:
    seed = run.recipe.seeds[0]
    name = run.names_of(seed)[-1]
    trained = run.stage(name, dict)
    folder = export_bundle(run, "student", name, seed, trained["metrics"])
    metrics = {**trained["metrics"], **check_bundle(run, "student", name, folder)}
    version = register_student(run, folder, trained, metrics, taught)
    return {"version": version, "metrics": metrics, "bundle": str(folder), "unseen": run.rows.unseen("test")}
