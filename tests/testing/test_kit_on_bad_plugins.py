"""The conformance kit refuses tasks, data sets, gates, baselines and models that would break a run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from recstill.api import GateResult
from recstill.testing import Check, check_baseline, check_dataset, check_gate, check_task
from recstill.testing.quick import check_quickly


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 3


class Lax(BaseModel):
    size: int = 3


class Needy(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


def failures(checks: list[Check]) -> str:
    return " | ".join(f"{check.rule}: {check.found}" for check in checks if not check.passed)


def a_task(**changes: Any) -> Any:
    from recstill_benchmarks.biased import ClicksTask

    parts = {
        "spec": ClicksTask.spec,
        "options": Strict,
        "rows": lambda raw, options: None,
        "write_training_sources": lambda raw, rows, sources: None,
    }
    return SimpleNamespace(**{**parts, **changes})


@pytest.mark.parametrize(("changes", "words"), [
    ({"spec": None}, "must be a TaskSpec, not NoneType"),
    ({"options": Lax}, "a misspelt option would be ignored"),
    ({"options": Needy}, "every option needs a default"),
    ({"options": Strict()}, "a class"),
    ({"rows": lambda raw: None}, "rows must take 2 arguments"),
    ({"rows": None}, "it has no method 'rows'"),
    ({"write_training_sources": lambda: None}, "write_training_sources must take 3 arguments"),
])  # fmt: skip
def test_a_task_that_would_break_a_run_is_refused(changes: dict[str, Any], words: str) -> None:
    checks = check_task(a_task(**changes), name="clicks", datasets=["synthetic-clicks"], recipes=["biased"])
    assert words in failures(checks)


def test_a_task_of_other_names_than_there_are_is_refused() -> None:
    assert "offered as 'click'" in failures(check_task(a_task(), name="click", datasets=[], recipes=[]))
    checks = check_task(a_task(), name="clicks", datasets=[], recipes=["biased"])
    assert "no enabled plugin offers its data set 'synthetic-clicks'" in failures(checks)
    good = check_task(a_task(), name="clicks", datasets=["synthetic-clicks"], recipes=["biased"])
    assert failures(good) == ""


@dataclass
class Data:
    name: str = "rows"
    package: str = "a-package"
    version: str = "1.0"
    sha256: str = "0" * 64
    members: dict[str, str] = field(default_factory=lambda: {"a.csv": "data/a.csv"})
    licence: str = "CC0"
    description: str = "some rows"
    sources_version: str = "1"

    def build_sources(self, raw: Path, sources: Path) -> None:
        """Nothing."""


@pytest.mark.parametrize(("changes", "words"), [
    ({"sha256": "none"}, "64 hexadecimal digits"),
    ({"version": ""}, "without its version"),
    ({"members": {}}, "`members` must map"),
    ({"licence": ""}, "licence"),
    ({"name": "other"}, "is named 'other'"),
    ({"version": 1}, "lacks the texts version"),
])  # fmt: skip
def test_a_data_set_that_cannot_be_fetched_is_refused(changes: dict[str, Any], words: str) -> None:
    assert words in failures(check_dataset(Data(**changes), name="rows"))
    assert failures(check_dataset(Data(), name="rows")) == ""


@pytest.mark.parametrize(("gate", "words"), [
    (lambda candidate: GateResult(candidate.metrics["label.auc"] > 0.5, "auc"), "one of another task"),
    (lambda candidate: None, "not a GateResult"),
    (lambda candidate: GateResult(True, ""), "and a reason"),
    (lambda candidate: GateResult(np.bool_(True), "fine"), "True or False"),
    (lambda candidate: GateResult(candidate.teacher_size_bytes > 3, "large"), "one without a teacher"),
])  # fmt: skip
def test_a_gate_that_raises_or_says_nothing_is_refused(gate: Any, words: str) -> None:
    assert words in failures(check_gate(gate, name="mine"))


def click(train: Any, valid: Any, test: Any, labels: Any, seed: int, progress: Any) -> dict[str, Any]:
    return {"click": np.full(40, train.labels["click"].mean(), np.float32)}


@pytest.mark.parametrize(("baseline", "words"), [
    (lambda *given: {"click": np.zeros(3)}, "has the shape (3,)"),
    (lambda *given: {"click": np.full(40, np.nan)}, "not finite"),
    (lambda *given: {"clack": np.zeros(40)}, "nobody asked for: clack"),
    (lambda *given: {"click": np.random.default_rng().random(40)}, "two calls differ in click"),
    (lambda train, *given: {"click": train.features["amount"][:40]}, "KeyError: 'amount'"),
])  # fmt: skip
def test_a_baseline_whose_answers_cannot_be_used_is_refused(baseline: Any, words: str) -> None:
    assert words in failures(check_baseline(baseline, name="mine"))
    assert failures(check_baseline(click, name="click")) == ""


class NeedsWidth:
    """A student with an option that has no default."""

    def __init__(self, inputs: Any, width: int) -> None:
        self.width = width


def test_what_recstill_cannot_build_is_refused_quickly() -> None:
    assert "every option needs a default" in failures(check_quickly("students", NeedsWidth, name="student needy"))
    assert "not a class" in failures(check_quickly("strategies", 3, name="strategy three"))
    assert "does not declare signals" in failures(check_quickly("strategies", NeedsWidth, name="strategy needy"))


PLUGIN = """
from recstill.api import GateResult, hookimpl

@hookimpl
def register_gates():
    return {"hasty": lambda candidate: GateResult(candidate.metrics["purchase.auc"] > 0.5, "auc")}
"""


def test_register_refuses_a_plugin_that_breaks_its_contract_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "hasty.py").write_text(PLUGIN)
    info = tmp_path / "Hasty_Gate-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Hasty_Gate\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[recstill]\nhasty = hasty\n")
    home = tmp_path / "home"

    def recstill(*arguments: str) -> subprocess.CompletedProcess[str]:
        import os

        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "RECSTILL_HOME": str(home)}
        command = [sys.executable, "-m", "recstill", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    recstill("plugins", "disable", "recstill-text")  # the first command of a home registers what is installed
    recstill("plugins", "disable", "hasty-gate")
    refused = recstill("plugins", "register", "hasty-gate")
    assert refused.returncode == 1
    assert "gate hasty: judges one without metrics without raising: KeyError: 'purchase.auc'" in refused.stderr
    assert "--force" in refused.stderr
    forced = recstill("plugins", "register", "Hasty.Gate", "--force")
    assert forced.returncode == 0, forced.stderr
    assert "hasty-gate 0.1 is registered and enabled" in forced.stdout
