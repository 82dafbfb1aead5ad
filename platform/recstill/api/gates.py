"""Checks that a promotion must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Bounds = Mapping[str, Mapping[str, float]]  # gate -> option -> value


@dataclass(frozen=True)
class Candidate:
    """What a gate sees: metrics by name (`purchase.auc`), the one that decides (higher is better), the bytes that a server
    loads, and the metrics of the version that it would replace and of its teacher, where there are such.

    Metrics hold what has a value; undefined: why a metric has none. baselines: the metrics of those that its run trained.
    """

    name: str
    version: int
    metrics: Mapping[str, float]
    size_bytes: int
    teacher_size_bytes: int | None
    primary_metric: str
    calibrated_labels: tuple[str, ...]
    incumbent: Mapping[str, float] | None = None
    teacher: Mapping[str, float] | None = None
    undefined: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class GateResult:
    """The outcome of one gate; `reason` is read by people."""

    passed: bool
    reason: str


class Gate(Protocol):
    """A check of a model version before promotion.

    Gates see the versions of every task. Bounds are keyword arguments with defaults, such as `min_ratio: float = 10`. A task
    (`TaskSpec.gates`) or a recipe (`gates: {size: {min_ratio: 4}}`) may set them; they are kept with the version.
    """

    def __call__(self, candidate: Candidate, **bounds: float) -> GateResult:
        """Judge the candidate. Return a failed result for a bad one; a gate that raises has failed, with what it raised."""
