"""The stages of a run, in order: pretrain, score, distil, fine-tune, compare, export, register, report."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from recstill.data.bundle import bundle_size
from recstill.data.files import write_json
from recstill.recipes.columns import (
    bundle_columns,
    folder_of,
    latency_of,
    open_columns,
    reads_columns,
    test_columns,
    train_columns,
)
from recstill.recipes.exporting import bundle_card, check_bundle, export_bundle
from recstill.recipes.judging import judge_of, row_metrics
from recstill.recipes.planning import hidden_asked
from recstill.recipes.pruning import prune
from recstill.recipes.quantising import quantise
from recstill.recipes.registered import adopt_all, artifact_of, fetch_teacher, is_registered
from recstill.recipes.registering import register_student, register_teacher
from recstill.recipes.stage_inputs import (
    alone_inputs,
    baseline_inputs,
    compressed_inputs,
    distilled_inputs,
    exported_inputs,
    pretrain_inputs,
    registered_inputs,
    score_inputs,
)
from recstill.recipes.staging import Stage
from recstill.recipes.summary import metric_table, transfer_of, write_run_report
from recstill.recipes.teaching import open_teachers, score_teacher, store_of
from recstill.recipes.training import load_trained, train
from recstill.registry.runs import finish_run, record_metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from recstill.api.measured import Measured
    from recstill.distillation.signals import SignalSource
    from recstill.recipes.run import Run

Versions = dict[str, tuple[str, str]]


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
    tell_of_older_results(run)
    adopt_all(run)
    taught, versions = taught_versions(run)
    for name in run.recipe.baselines:
        run.stage(Stage(f"baseline-{name}", baseline_inputs(run, name), partial(_baseline, run, name)))
    for seed in seeds:
        name = f"alone-{seed}"
        run.stage(Stage(name, alone_inputs(run, seed), partial(train, run, name, "student", seed), _weights(run, name)))
    source = functools.cache(lambda: open_teachers(run, versions))
    for seed in seeds:
        _student_of(run, seed, versions, source)
    exported = run.stage(_exported_student(run, taught))
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


def taught_versions(run: Run) -> tuple[dict[str, dict[str, Any]], Versions]:
    """Train, or take from the registry, every teacher, and score it. Return what the stages found by role, and
    {name of the signals: (role, weights)}."""
    taught, versions = {}, {}
    adopt_all(run)
    for role, part in run.recipe.all_teachers.items():
        if part.version:
            inputs = registered_inputs(run, role)
            taught[role] = run.stage(Stage(role, inputs, partial(_registered_teacher, run, role), is_shared=False))
        else:
            taught[role] = _trained_teacher(run, role)
        version = taught[role]["version"]
        run.artifacts = {**run.artifacts, role: artifact_of(run.platform, version)}
        members = {version: role} | {f"{version}@{epoch}": f"{role}@{epoch}" for epoch in part.checkpoints}
        for key, weights in members.items():
            versions[key] = (role, weights)
            if not run.recipe.distil.live:
                _score(run, role, weights, key)
        if not run.recipe.distil.live:
            run.rows.forget(role)
    return taught, versions


def tell_of_older_results(run: Run) -> None:
    """Say once that results of an earlier version are there: they do not say what decided them, so nothing takes them."""
    older, told = run.platform.settings.home / "cache" / "students", run.journal.root / "told.json"
    if older.is_dir() and not told.is_file():
        run.progress.say(
            f"{older} holds students of an earlier version of recstill; what decided them is not known, so they are made anew. "
            "The folder can be deleted."
        )
        write_json(told, {"told of": str(older)})


def _trained_teacher(run: Run, role: str) -> dict[str, Any]:
    name = f"pretrain{role.removeprefix('teacher')}"
    epochs = run.recipe.all_teachers[role].checkpoints
    products = {"weights": folder_of(run, role)} if reads_columns(run.factory(role)) else _weights(run, role)
    products |= {f"weights@{epoch}.safetensors": run.weights(f"{role}@{epoch}") for epoch in epochs}
    run.stage(Stage(name, pretrain_inputs(run, role), partial(_pretrain, run, role), products))
    inputs = exported_inputs(run, role, name, {})
    work = partial(_export_teacher, run, role, name)
    return run.stage(
        Stage(role, inputs, work, is_there=lambda found: is_registered(run, found["version"], found.get("artifact", "")))
    )


def _student_of(run: Run, seed: int, versions: Versions, source: Callable[[], SignalSource]) -> None:
    """Distil the student of a seed, and compress it as the recipe says."""
    name = f"distilled-{seed}"

    def distil() -> dict[str, Any]:
        return train(run, name, "student", seed, source())

    run.stage(Stage(name, distilled_inputs(run, seed, _said(run, versions)), distil, _weights(run, name)))
    for stage, work in (("pruned", prune), ("quantised", quantise)):
        if stage in run.recipe.student_stages:
            before, name = name, f"{stage}-{seed}"
            inputs = compressed_inputs(run, stage, before)
            run.stage(Stage(name, inputs, partial(_compress, run, work, seed, source), _weights(run, name)))


def _compress(run: Run, work: Callable[..., dict[str, Any]], seed: int, source: Callable[[], SignalSource]) -> dict[str, Any]:
    return work(run, seed, source())


def _said(run: Run, versions: Versions) -> dict[str, Any]:
    """What decides what the teachers tell a student, stored or live: each one's weights, and how it is asked."""
    return {
        weights: {"version": version, "signals": score_inputs(run, role, version, weights).key}
        for version, (role, weights) in versions.items()
    }


def _weights(run: Run, name: str) -> dict[str, Path]:
    return {"weights.safetensors": run.weights(name)}


def _pretrain(run: Run, role: str) -> dict[str, Any]:
    seed = run.recipe.seeds[0]
    return train_columns(run, role, seed) if reads_columns(run.factory(role)) else train(run, role, role, seed)


def _score(run: Run, role: str, weights: str, version: str) -> None:
    name, inputs = "score" + weights.removeprefix("teacher"), score_inputs(run, role, version, weights)
    store = store_of(run, version, inputs.key)
    hidden = hidden_asked(run) if role == "teacher" else ()  # strategies read the first teacher's vectors only
    locks = run.platform.settings.folder("signals", ".locks")
    # Two runs that need the same signals: one scores, the other finds them.
    with FileLock(locks / f"{store.folder.name}-{store.key.teacher}.lock"):
        if not store.is_complete:
            run.state(name).unlink(missing_ok=True)
        run.stage(Stage(name, inputs, partial(score_teacher, run, role, weights, store, hidden), is_shared=False))


def _export_teacher(run: Run, role: str, pretrained: str) -> dict[str, Any]:
    trained = run.result(pretrained)
    if reads_columns(run.factory(role)):
        folder = bundle_columns(run, role, trained["num_parameters"], bundle_card(run, role, trained["metrics"]))
        metrics = {**trained["metrics"], "bundle.bytes": float(bundle_size(folder))}
        metrics["latency.ms_per_200"] = latency_of(run, role)
    else:
        folder = export_bundle(run, role, role, run.recipe.seeds[0], trained["metrics"])
        metrics = {**trained["metrics"], **check_bundle(run, role, role, folder)}
    version = register_teacher(run, role, folder, trained, metrics)
    return {
        "version": version,
        "artifact": artifact_of(run.platform, version),
        "metrics": metrics,
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


def _exported_student(run: Run, taught: dict[str, dict[str, Any]]) -> Stage:
    """The last stage. Registering is an act of this run, not a result that another one could take."""
    seed = run.recipe.seeds[0]
    name = run.names_of(seed)[-1]
    inputs = exported_inputs(run, "student", name, {role: found["version"] for role, found in taught.items()})

    def export() -> dict[str, Any]:
        trained = run.result(name)
        folder = export_bundle(run, "student", name, seed, trained["metrics"])
        metrics = {**trained["metrics"], **check_bundle(run, "student", name, folder)}
        version = register_student(run, folder, trained, metrics, taught)
        return {"version": version, "metrics": metrics, "bundle": str(folder), "unseen": run.rows.unseen("test")}

    return Stage("student", inputs, export, is_shared=False)
