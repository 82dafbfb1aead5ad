"""What an experiment's table should show, and whether it can: asked before the first variant trains."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recstill.api.task import METRIC_PARTS
from recstill.evaluation.metrics import evaluate_predictions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from recstill.api.task import TaskSpec
    from recstill.recipes.config import Recipe

VERDICT = "verdict"
_TRANSFER = ("gain", "efficiency", "interval_low", "interval_high")


class Claim(BaseModel):
    """Something that the table should show: a metric of a variant's subject within bounds; `transfer.efficiency` and the
    like are metrics too, and `verdict` is compared as text. Without a subject it is the student that was registered. A metric
    that is undefined meets no claim."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    text: str
    variant: str
    subject: str = ""
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    equals: str | None = None
    relative_to: str = Field("", description="divide by `plus` + `times` the same metric of this subject of the run")
    times: float = 1.0
    plus: float = 0.0

    @model_validator(mode="after")
    def _can_be_false(self) -> Claim:
        has_bound = self.at_least is not None or self.at_most is not None
        if (self.metric == VERDICT) != (self.equals is not None) or has_bound == (self.equals is not None):
            raise ValueError("write `at_least` or `at_most` of a metric, or what the metric `verdict` `equals`")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"nothing is at least {self.at_least:g} and at most {self.at_most:g}")
        return self


def claim_problems(
    claims: Sequence[Claim], columns: Sequence[str], variants: Mapping[str, tuple[TaskSpec, Recipe]]
) -> list[str]:
    """Return what claims and columns of the table name that no run of these variants will have."""
    problems = []
    for claim in claims:
        task, recipe = variants[claim.variant]
        subjects = _subjects(recipe)
        for subject in (claim.subject, claim.relative_to):
            if subject and subject not in subjects:
                problems.append(f"claim {claim.text!r}: no subject {subject!r}{_hint(subject, subjects)}")
        known: Collection[str] = _TRANSFER if claim.subject == "transfer" else _metrics(task)
        if claim.metric != VERDICT and not _is_known(claim.metric, known):
            problems.append(f"claim {claim.text!r}: no metric {claim.metric!r}{_hint(claim.metric, known)}")
    every = {name for task, _ in variants.values() for name in _metrics(task)}
    problems += [f"metrics: no metric {name!r}{_hint(name, every)}" for name in columns if not _is_known(name, every)]
    return problems


def _subjects(recipe: Recipe) -> list[str]:
    stages = [f"student {stage}" for stage in ("alone", *recipe.student_stages)]
    return ["teacher", *stages, *recipe.baselines, "transfer"]


def _metrics(task: TaskSpec) -> list[str]:
    """The metrics of the labels, as judging no row at all gives them: undefined, each under its name."""
    nothing = {
        label.name: np.zeros((0, label.num_classes) if label.kind == "multiclass" else 0, np.float32) for label in task.labels
    }
    truth = {label.name: np.zeros(0, np.float32) for label in task.labels}
    names = list(evaluate_predictions(task.labels, truth, nothing, np.zeros(0, np.int64)))
    if task.retrieval is not None:
        k = task.retrieval.k
        names += [f"{task.primary.name}.{metric}" for metric in (f"recall@{k}", f"ndcg@{k}", "mrr")]
    return names


def _is_known(name: str, known: Collection[str]) -> bool:
    """Say whether a run may give this metric. What is measured beside the labels depends on rows and files."""
    return name in known or name.split(".")[0] in METRIC_PARTS


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
