"""What a run found, as tables, a verdict and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.data.files import read_json
from recstill.evaluation.report import ReportContent, write_report
from recstill.evaluation.transfer import Transfer, transfer_efficiency
from recstill.recipes.columns import open_columns, reads_columns, test_predictions
from recstill.recipes.exporting import test_logits
from recstill.recipes.judging import primary_metric
from recstill.registry.versions import find_version, lineage_of

if TYPE_CHECKING:
    from pathlib import Path

    from recstill.recipes.run import Run

Values = dict[str, tuple[float, float, int]]
ALONE, DISTILLED, TEACHER = "student alone", "student distilled", "teacher"


def metric_table(run: Run) -> dict[str, Values]:
    """Return the test metrics of everything that the run trained: subject -> name -> (mean, spread, seeds)."""
    seeds = run.recipe.seeds
    table = {TEACHER: _spread([_state(run, "teacher")["metrics"]])}
    for short in ("alone", *run.recipe.student_stages):
        subject = f"student {short}"
        states = [_state(run, f"{short}-{seed}") for seed in seeds]
        cost = {"parameters": "num_parameters", "cpu_seconds": "cpu_seconds"}
        table[subject] = _spread([
            {**state["metrics"], **{f"training.{name}": float(state[key]) for name, key in cost.items()}} for state in states
        ])  # fmt: skip
    table[TEACHER]["training.parameters"] = (float(_state(run, "teacher")["num_parameters"]), 0.0, 1)
    exported = _state(run, "student")["metrics"]
    table[f"student {run.recipe.student_stages[-1]}"] |= {
        name: (exported[name], 0.0, 1) for name in exported if name.split(".")[0] in ("bundle", "latency", "parity")
    }
    for name in run.recipe.baselines:
        table[name] = _spread([_state(run, f"baseline-{name}")["metrics"]])
    return table


def transfer_of(run: Run) -> Transfer:
    """Return the verdict on the primary label's metric."""
    name = primary_metric(run.task.spec)
    alone = [_state(run, f"alone-{seed}")["metrics"][name] for seed in run.recipe.seeds]
    distilled = [_state(run, f"distilled-{seed}")["metrics"][name] for seed in run.recipe.seeds]
    return transfer_efficiency(_state(run, "teacher")["metrics"][name], alone, distilled)


def write_run_report(run: Run, table: dict[str, Values], transfer: Transfer, exported: dict[str, Any]) -> Path:
    """Write `report.html` into the run's folder."""
    from recstill.evaluation import plots

    primary, seed = run.task.spec.primary, run.recipe.seeds[0]
    name = primary_metric(run.task.spec)
    histories = {TEACHER: _state(run, "pretrain").get("history", [])} if not run.recipe.teacher.version else {}
    histories |= {f"{subject} {s}": _state(run, f"{short}-{s}")["history"]
                  for short, subject in (("alone", "alone"), ("distilled", "distilled")) for s in run.recipe.seeds}  # fmt: skip
    drawn = {f"{name} on the test split": plots.bars_with_spread({s: v[name][:2] for s, v in table.items() if name in v}, name)}
    drawn["Learning curves"] = plots.learning_curves(histories)
    truth = run.rows.labels("test")[primary.name]
    if primary.kind not in ("multiclass", "ranking"):
        predicted = {
            TEACHER: _teacher_says(run)[primary.name],
            ALONE: test_logits(run, "student", f"alone-{seed}")[primary.name],
            DISTILLED: test_logits(run, "student", f"distilled-{seed}")[primary.name],
        }
        drawn[f"Calibration of {primary.name}, seed {seed}"] = plots.calibration_plot(primary.name, truth, predicted)
    return write_report(
        ReportContent(
            title=f"{run.name}: {exported['version']}",
            description=run.recipe.description or run.task.spec.description,
            labels=[label.name for label in run.task.spec.labels],
            table=table,
            transfer=transfer,
            metric=name,
            facts=_facts(run, exported),
            efficiency=_efficiency(run, exported),
            lineage=_lineage(run, exported["version"]),
            notes=_NOTES,
            plots=drawn,
        ),
        run.folder / "report.html",
    )


def _efficiency(run: Run, exported: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    teacher, student = _state(run, "teacher")["metrics"], exported["metrics"]
    parameters = {"student": _state(run, f"distilled-{run.recipe.seeds[0]}")["num_parameters"]}
    parameters["teacher"] = _state(run, "teacher")["num_parameters"]
    for subject, metrics in (("teacher", teacher), ("student", student)):
        ratio = teacher["bundle.bytes"] / metrics["bundle.bytes"]
        speed = teacher["latency.ms_per_200"] / metrics["latency.ms_per_200"]
        rows.append(
            {
                "model": subject,
                "parameters": f"{parameters[subject]:,}",
                "bundle": f"{metrics['bundle.bytes'] / 1e6:.2f} MB",
                "smaller": f"{ratio:.1f} x",
                "graph, 200 candidates": f"{metrics['latency.ms_per_200']:.3f} ms",
                "faster": f"{speed:.1f} x",
                "parity": f"{metrics['parity.max_difference']:.1e}" if "parity.max_difference" in metrics else "its own files",
            }
        )
    return rows


def _facts(run: Run, exported: dict[str, Any]) -> dict[str, str]:
    splits = run.snapshot.meta["splits"]
    facts = {"run": run.id, "snapshot": run.snapshot.id, "seeds": ", ".join(map(str, run.recipe.seeds))}
    facts["rows"] = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    facts["options"] = ", ".join(f"{name} {value}" for name, value in run.snapshot.meta["options"].items())
    if run.recipe.distil.live:
        facts["signals"] = "the live teacher"
    else:
        scored = _state(run, "score")
        facts["signals"] = (
            f"coverage {scored['coverage']:.3f} of all rows (test rows are never scored), {scored['bytes']:,} bytes"
        )
    for key, share in exported["unseen"].items():
        facts[f"unseen {key}"] = f"{share:.2%} of test rows, scored by hashed ids and their features"
    return facts


def _lineage(run: Run, version: str) -> list[tuple[str, str, str]]:
    with run.platform.registry.transaction() as session:
        rows = lineage_of(session, find_version(session, version))
        return [(row.relation, row.value, ", ".join(f"{k} {v}" for k, v in row.details.items())) for row in rows]


def _spread(found: list[dict[str, float]]) -> Values:
    names = found[0]
    values = {name: np.array([metrics[name] for metrics in found]) for name in names}
    return {n: (float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else 0.0, len(v)) for n, v in values.items()}


def _teacher_says(run: Run) -> dict[str, Any]:
    if reads_columns(run.factory("teacher")):
        return dict(test_predictions(run, "teacher", open_columns(run, "teacher")))
    return test_logits(run, "teacher", "teacher")


def _state(run: Run, stage: str) -> dict[str, Any]:
    return dict(read_json(run.folder / "state" / f"{stage}.json"))


_NOTES = (
    "± is the standard deviation over seeds; a row without it has one seed.",
    "student alone: the same student with the same budget and seeds, trained on labels only.",
    "Transfer efficiency is (distilled - alone) / (teacher - alone). A teacher with privileged features sees more than any "
    "student may, so 100 % is not within reach there.",
    "calibration is sum of predictions over sum of labels, on rows whose negatives are sampled at the recorded rates; "
    "ne is log loss over the entropy of the base rate, below 1 is better than a constant.",
    "auc, gauc and ndcg@10 of an amount rank rows by it; groups are the task's.",
)
