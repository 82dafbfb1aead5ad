"""Variants of a recipe side by side: each is a run like any other, and the table says what each gained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recstill.api.errors import ConfigError
from recstill.api.measured import NOT_FINITE
from recstill.data.files import read_json, write_json
from recstill.recipes.claims import Claim, claim_problems
from recstill.recipes.config import Name, Recipe
from recstill.recipes.loading import load_recipe
from recstill.recipes.mistakes import validated
from recstill.recipes.run import open_run, resume_run, run_recipe
from recstill.recipes.stage_inputs import run_inputs
from recstill.recipes.strict_yaml import read_yaml
from recstill.registry.runs import get_run, list_runs, metrics_of
from recstill.registry.versions import find_version, lineage_of, version_of_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recstill.api.measured import Measured
    from recstill.recipes.platform import Platform
    from recstill.recipes.progress import Progress


# The last stage of a run is registered.
_STUDENTS = ("student quantised", "student pruned", "student distilled")


class Experiment(BaseModel):
    """A recipe, what all variants set, and the variants: name -> overrides. The first one trains the teacher, the others take
    its registered version unless share_teacher is false. A variant may start from another recipe with `recipe=NAME`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: Name
    title: str
    description: str = ""
    recipe: str
    set: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = Field(min_length=1)
    metrics: tuple[str, ...] = Field(min_length=1)
    share_teacher: bool = True
    order: Literal["given", "best"] = "given"
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _claims_are_about_variants(self) -> Experiment:
        for claim in self.claims:
            if claim.variant not in self.variants:
                raise ValueError(f"claims: {claim.text!r} is about variant {claim.variant!r}, which there is not")
        return self


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file. Raise ConfigError with what is wrong."""
    subject = f"Experiment {path}"
    experiment, problems = validated(Experiment, read_yaml(path, subject))
    if experiment is None:
        raise ConfigError(subject, problems)
    return experiment


def run_sweep(platform: Platform, path: Path, out: Path, progress: Progress, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run every variant that has not finished yet, and write `NAME.json` and `NAME.html` below `out`."""
    experiment = load_experiment(path)
    common = [*experiment.set, *overrides]
    recipes = {}
    for name, own in experiment.variants.items():  # all mistakes before the first minute of training
        _, recipe = load_recipe(platform, *_split(experiment, [*common, *own]))
        recipes[name] = (platform.task(recipe.task).spec, recipe)
        progress.say(f"variant {name}: ok")
    if problems := claim_problems(experiment.claims, experiment.metrics, recipes):
        raise ConfigError(f"Experiment {path}", problems)
    rows, teacher = [], ""
    for name, own in experiment.variants.items():
        chosen = [*common, *own]
        if teacher and experiment.share_teacher and not any(text.startswith("teacher.") for text in own):
            chosen.append(f"teacher.version={teacher}")
        progress.say(f"variant {name}")
        run_id = _run_once(platform, *_split(experiment, chosen), progress)
        row = _row(platform, name, run_id)
        rows.append(row)
        teacher = teacher or str(row["teacher"])
    result = {
        "name": experiment.name,
        "title": experiment.title,
        "description": experiment.description,
        "recipe": experiment.recipe,
        "set": common,
        "metrics": list(experiment.metrics),
        "rows": rows,
        "claims": [_judge(claim, rows) for claim in experiment.claims],
    }
    write_json(out / f"{experiment.name}.json", result)
    _write_page(result, experiment, out / f"{experiment.name}.html")
    return result


def _split(experiment: Experiment, overrides: Sequence[str]) -> tuple[str, list[str]]:
    named = [text.removeprefix("recipe=") for text in overrides if text.startswith("recipe=")]
    return (named or [experiment.recipe])[-1], [text for text in overrides if not text.startswith("recipe=")]


def _run_once(platform: Platform, reference: str, overrides: list[str], progress: Progress) -> str:
    """Return the run of this recipe: a finished one, a stopped one that goes on, or a new one."""
    name, recipe = load_recipe(platform, reference, overrides)
    run = open_run(platform, name, recipe, progress)
    with platform.registry.read() as session:
        same = [row for row in list_runs(session, recipe.task) if row.recipe == name and _is_recipe(row.config, run.recipe)]
        found = [(row.id, row.status) for row in same]
    key, runs = run_inputs(run).key, platform.settings.folder("runs")
    for run_id, status in sorted(found, key=lambda pair: pair[1] != "finished"):
        saved = runs / run_id / "run.json"
        if not saved.is_file() or read_json(saved).get("key") != key:
            continue  # the run is gone, or something that decided it has changed since
        if status == "finished":
            progress.say(f"run {run_id} has this already")
            return run_id
        return resume_run(platform, run_id, progress).run_id
    return run_recipe(platform, reference, overrides, progress).run_id


def _is_recipe(config: dict[str, Any], recipe: Recipe) -> bool:
    try:
        return Recipe.model_validate(config) == recipe  # keys that came later have their defaults
    except ValidationError:
        return False


def _row(platform: Platform, name: str, run_id: str) -> dict[str, Any]:
    with platform.registry.read() as session:
        run = get_run(session, run_id)
        version = version_of_run(session, run_id, run.config["student"]["register_as"])
        lineage = [(row.relation, row.value) for row in lineage_of(session, find_version(session, version))]
        metrics = metrics_of(session, run_id)
        return {
            "variant": name,
            "run": run_id,
            "verdict": run.verdict,
            "student": version,
            "teacher": next(value for relation, value in lineage if relation == "teacher"),
            "snapshot": next(value for relation, value in lineage if relation == "snapshot"),
            "strategies": run.config["distil"]["strategies"],
            "seeds": run.config["seeds"],
            "subjects": {
                subject: {name: _stored(*value) for name, value in values.items()} for subject, values in metrics.items()
            },
        }


def _stored(mean: Measured, spread: float, seeds: int) -> list[Any]:
    """A metric as the JSON has it: mean, spread, seeds; one that is undefined has null and, last, the reason."""
    return [None, spread, seeds, mean] if isinstance(mean, str) else [mean, spread, seeds]


def _measured(row: dict[str, Any], subject: str, metric: str) -> tuple[Measured, float, int]:
    """Return a metric of a row, or why there is none."""
    found = row["subjects"].get(subject, {}).get(metric)
    if found is None:
        return f"variant {row['variant']} has no {metric} of {subject}", 0.0, 1
    value, spread, seeds, *reason = found
    return (NOT_FINITE if not reason else reason[0]) if value is None else value, spread, seeds


def _registered(row: dict[str, Any]) -> str:
    """The subject whose student was registered: distilled, or what compression made of it."""
    return next(subject for subject in _STUDENTS if subject in row["subjects"])


def _judge(claim: Claim, rows: list[dict[str, Any]]) -> dict[str, Any]:
    row = next(row for row in rows if row["variant"] == claim.variant)
    if claim.equals is not None:
        return {"text": claim.text, "measured": row["verdict"], "target": claim.equals, "met": row["verdict"] == claim.equals}
    value, spread = _claimed(claim, row)
    low, high = claim.at_least, claim.at_most
    target = " and ".join(
        text for text in (f">= {low:g}" if low is not None else "", f"<= {high:g}" if high is not None else "") if text
    )
    if isinstance(value, str):
        return {"text": claim.text, "measured": f"undefined: {value}", "target": target, "met": False}
    met = (low is None or value >= low) and (high is None or value <= high)
    said = f"{value:.4f}" + (f" ± {spread:.4f}" if spread else "")
    return {"text": claim.text, "measured": said, "target": target, "met": met}


def _claimed(claim: Claim, row: dict[str, Any]) -> tuple[Measured, float]:
    """What a claim is about: a metric, or its ratio to another subject's, or why there is none."""
    value, spread, _ = _measured(row, claim.subject or _registered(row), claim.metric)
    if isinstance(value, str) or not claim.relative_to:
        return value, spread
    other, _, _ = _measured(row, claim.relative_to, claim.metric)
    if isinstance(other, str):
        return other, 0.0
    base = claim.plus + claim.times * other
    if base <= 0:  # a bound of a ratio to less than nothing would say the opposite
        return f"what it is divided by, of {claim.relative_to}, is {base:g}, and not above 0", 0.0
    return value / base, spread / base


def table_of(result: dict[str, Any], order: str = "given") -> list[dict[str, str]]:
    """Return the rows of a result as text: teacher, baselines and student alone once, then every variant, after the same
    student alone where it is another one."""
    rows, first = [], result["rows"][0]["subjects"]
    for subject in first:
        if subject not in ("transfer", *_STUDENTS):
            rows.append({"what": subject, **_cells(result, first[subject]), "gap recovered": "", "verdict": ""})
    variants = list(result["rows"])
    if order == "best":
        metric = result["metrics"][0]
        variants.sort(key=lambda row: _height(_measured(row, _registered(row), metric)[0]), reverse=True)
    alone = _cells(result, first.get("student alone", {}))
    for row in variants:
        own = _cells(result, row["subjects"].get("student alone", {}))
        if own != alone:  # another student, or another budget
            rows.append({"what": f"{row['variant']}: alone", **own, "gap recovered": "", "verdict": ""})
        value, spread, seeds = _measured(row, "transfer", "efficiency")
        gap = "no gap" if isinstance(value, str) else f"{value:.0%}" + (f" ± {spread:.0%}" if seeds > 1 else "")
        cells = _cells(result, row["subjects"][_registered(row)])
        rows.append({"what": row["variant"], **cells, "gap recovered": gap, "verdict": row["verdict"]})
    return rows


def _height(value: Measured) -> float:
    return float("-inf") if isinstance(value, str) else value


def _cells(result: dict[str, Any], values: dict[str, list[Any]]) -> dict[str, str]:
    def text(name: str) -> str:
        if name not in values:
            return ""
        value, spread, seeds = values[name][:3]
        if value is None:
            return "undefined"
        form = ",.0f" if abs(value) >= 1000 or name.endswith("parameters") else ".1f" if name.endswith("seconds") else ".4f"
        return format(value, form) + (f" ± {format(spread, form)}" if seeds > 1 and spread else "")

    return {name: text(name) for name in result["metrics"]}


def _write_page(result: dict[str, Any], experiment: Experiment, path: Path) -> None:
    from recstill.evaluation.plots import bars_with_spread
    from recstill.evaluation.report import write_page

    metric = experiment.metrics[0]
    first = result["rows"][0]
    found = {subject: _measured(first, subject, metric) for subject in first["subjects"] if subject not in _STUDENTS}
    found |= {row["variant"]: _measured(row, _registered(row), metric) for row in result["rows"]}
    bars = {name: (mean, spread) for name, (mean, spread, _) in found.items() if not isinstance(mean, str)}
    values = {"result": result, "table": table_of(result, experiment.order)}
    write_page("sweep.html", path, values, {metric: bars_with_spread(bars, metric)} if bars else {})
