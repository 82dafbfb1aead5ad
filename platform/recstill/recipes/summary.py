"""What a run found, as tables, a verdict and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.measured import NOT_FINITE, Measured, text_of
from recstill.data.files import read_json
from recstill.evaluation.report import ReportContent, write_report
from recstill.evaluation.transfer import Transfer, transfer_efficiency
from recstill.recipes.columns import open_columns, reads_columns, test_predictions
from recstill.recipes.exporting import test_logits
from recstill.recipes.judging import primary_metric
from recstill.recipes.remarks import keep_remarks
from recstill.registry.versions import find_version, lineage_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from recstill.evaluation.metrics import Floats
    from recstill.recipes.run import Run

Values = dict[str, tuple[Measured, float, int]]
ALONE, TEACHER = "student alone", "teacher"


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
    table[f"student {_last_stage(run)}"] |= {
        name: (exported[name], 0.0, 1) for name in exported if name.split(".")[0] in ("bundle", "latency", "parity")
    }
    for name in run.recipe.baselines:
        table[name] = _spread([_state(run, f"baseline-{name}")["metrics"]])
    return table


def transfer_of(run: Run) -> Transfer:
    """Return the verdict on the primary label's metric, of the students as they are registered: pruned, quantised."""
    name, last = primary_metric(run.task.spec), _last_stage(run)
    alone = [_state(run, f"alone-{seed}")["metrics"][name] for seed in run.recipe.seeds]
    distilled = [_state(run, f"{last}-{seed}")["metrics"][name] for seed in run.recipe.seeds]
    return transfer_efficiency(_state(run, "teacher")["metrics"][name], alone, distilled, run.recipe.seeds)


def _last_stage(run: Run) -> str:
    """The stage whose students are registered: `distilled`, `pruned` or `quantised`."""
    return run.recipe.student_stages[-1]


def write_run_report(run: Run, table: dict[str, Values], transfer: Transfer, exported: dict[str, Any]) -> Path:
    """Write `report.html` into the run's folder."""
    from recstill.evaluation import plots

    primary, seed = run.task.spec.primary, run.recipe.seeds[0]
    name = primary_metric(run.task.spec)
    remarks = keep_remarks(run.folder, _all_histories(run))
    histories = {TEACHER: _state(run, "pretrain").get("history", [])} if not run.recipe.teacher.version else {}
    histories |= {f"{short} {s}": _state(run, f"{short}-{s}")["history"]
                  for short in ("alone", "distilled") for s in run.recipe.seeds}  # fmt: skip
    known = {subject: values[name] for subject, values in table.items() if name in values}
    bars = {subject: (mean, spread) for subject, (mean, spread, _) in known.items() if not isinstance(mean, str)}
    drawn = {f"{name} on the test split": plots.bars_with_spread(bars, name)} if bars else {}
    drawn["Learning curves"] = plots.learning_curves(histories)
    truth = run.rows.labels("test")[primary.name]
    if primary.kind not in ("multiclass", "ranking"):
        last = _last_stage(run)
        predicted = {
            TEACHER: _teacher_says(run)[primary.name],
            ALONE: test_logits(run, "student", f"alone-{seed}")[primary.name],
            f"student {last}": test_logits(run, "student", f"{last}-{seed}")[primary.name],
        }
        drawn |= _calibration(primary.name, seed, truth, predicted)
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
            notes=(*_NOTES, *remarks),
            plots=drawn,
        ),
        run.folder / "report.html",
    )


def _calibration(label: str, seed: int, truth: Floats, predicted: Mapping[str, Floats]) -> dict[str, str]:
    """The plot of the rows whose label is known, without models that do not answer with numbers."""
    from recstill.evaluation import plots

    known = ~np.isnan(truth)
    lines = {name: values[known] for name, values in predicted.items() if np.isfinite(values[known]).all()}
    if not known.any() or not lines:
        return {}
    return {f"Calibration of {label}, seed {seed}": plots.calibration_plot(label, truth[known], lines)}


def _all_histories(run: Run) -> dict[str, Any]:
    """What every model that the run trained looked like after each epoch, by stage."""
    stages = [f"pretrain{role.removeprefix('teacher')}" for role, part in run.recipe.all_teachers.items() if not part.version]
    stages += [f"{short}-{seed}" for short in ("alone", *run.recipe.student_stages) for seed in run.recipe.seeds]
    return {stage: _state(run, stage).get("history", []) for stage in stages}


def _efficiency(run: Run, exported: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    teacher, student = _state(run, "teacher")["metrics"], exported["metrics"]
    parameters = {"student": _state(run, run.names_of(run.recipe.seeds[0])[-1])["num_parameters"]}
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
                "parity": text_of(metrics["parity.max_difference"], ".1e")
                if "parity.max_difference" in metrics
                else "its own files",
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
    with run.platform.registry.read() as session:
        rows = lineage_of(session, find_version(session, version))
        return [(row.relation, row.value, ", ".join(f"{k} {v}" for k, v in row.details.items())) for row in rows]


def _spread(found: list[dict[str, Measured]]) -> Values:
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return {name: _mean_of([metrics.get(name, "a seed did not give it") for metrics in found]) for name in names}


def _mean_of(values: list[Measured]) -> tuple[Measured, float, int]:
    """Mean and spread over seeds. It is undefined where a seed's is: the mean of the others would be of other students."""
    reasons = [value for value in values if isinstance(value, str)]
    if reasons:
        seeds = "" if len(values) == 1 else f" (in {len(reasons)} of {len(values)} seeds)"
        return reasons[0] + seeds, 0.0, len(values)
    numbers = np.array(values, np.float64)
    mean, spread = float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    if not np.isfinite([mean, spread]).all():
        return f"over {len(values)} seeds {NOT_FINITE}", 0.0, len(values)
    return mean, spread, len(values)


def _teacher_says(run: Run) -> dict[str, Any]:
    if reads_columns(run.factory("teacher")):
        return dict(test_predictions(run, "teacher", open_columns(run, "teacher")))
    return test_logits(run, "teacher", "teacher")


def _state(run: Run, stage: str) -> dict[str, Any]:
    return dict(read_json(run.folder / "state" / f"{stage}.json"))


_NOTES = (
    "± is the standard deviation over seeds; a row without it has one seed.",
    "student alone: the same student with the same budget and seeds, trained on labels only.",
    "The verdict compares the students as they are registered, after pruning and quantising, with the student alone.",
    "Equal scores are averaged over: their order says nothing. A metric that means nothing here says why.",
    "Transfer efficiency is (distilled - alone) / (teacher - alone). A teacher with privileged features sees more than any "
    "student may, so 100 % is not within reach there.",
    "calibration is sum of predictions over sum of labels, on rows whose negatives are sampled at the recorded rates; "
    "ne is log loss over the entropy of the base rate, below 1 is better than a constant.",
    "auc, gauc and ndcg@10 of an amount rank rows by it; groups are the task's.",
)
