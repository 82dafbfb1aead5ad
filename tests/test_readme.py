"""The strategy of the README works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recstill.api import Candidate

ROOT = Path(__file__).resolve().parents[1]
SECTION = "## Write a strategy in thirty lines"
QUICK = (
    "data.train=4000", "seeds=[0]", "teacher.training.epochs=1", "teacher.options={dim: 4, bottom: [8], top: [16, 8]}",
    "student.training.epochs=1", "student.options={dim: 4, hidden: [8]}",
    "distil.strategies=[{name: focal-target, weight: 10}]",
)  # fmt: skip


@pytest.fixture(scope="module")
def section() -> str:
    return (ROOT / "README.md").read_text().split(SECTION)[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def installed(section: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the README beside an entry point, as `pip install` would leave them."""
    site = tmp_path_factory.mktemp("site")
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 45
    (site / "focal_target.py").write_text(code[1])
    info = site / "focal_target-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: focal-target\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[recstill]\nfocal-target = focal_target\n")
    (info / "RECORD").write_text("focal_target.py,,\n")
    return site


def recstill(site: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PYTHONPATH": str(site), "RECSTILL_HOME": str(home), "RECSTILL_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return subprocess.run([sys.executable, "-m", "recstill", *arguments], env=environment, capture_output=True, text=True)


def test_the_strategy_of_the_readme_conforms_registers_and_teaches(section: str, installed: Path, tmp_path: Path) -> None:
    for line in re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1].splitlines()[:2]:
        done = recstill(installed, tmp_path, *line.split("#")[0].split()[1:])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout
    assert recstill(installed, tmp_path, "data", "fetch", "synthetic-clicks").returncode == 0
    done = recstill(installed, tmp_path, "run", "biased", *[word for text in QUICK for word in ("--set", text)])
    assert done.returncode == 0, done.stderr
    shown = recstill(installed, tmp_path, "models", "lineage", "clicks:1")
    assert "focal-target" in shown.stdout


def test_every_bundled_strategy_is_named_in_the_readme() -> None:
    from recstill_strategies import register_strategies

    text = (ROOT / "README.md").read_text()
    assert [name for name in register_strategies() if f"`{name}`" not in text] == []


def test_the_gate_of_the_readme_judges_the_versions_of_every_task() -> None:
    from recstill.plugins.manager import load_plugins
    from recstill.recipes.judging import primary_metric
    from recstill.testing import check_gate

    section = (ROOT / "README.md").read_text().split("## Write a plugin in ten lines")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    gate = names["register_gates"]()["purchases"]
    assert [check for check in check_gate(gate, name="purchases") if not check.passed] == []
    tasks = load_plugins().catalog("tasks")
    for name in tasks:
        spec = tasks[name].spec
        labels = tuple(label.name for label in spec.labels)
        for value in (0.6, 0.7):
            candidate = Candidate(name, 1, {primary_metric(spec): value}, 1, None, primary_metric(spec), labels)
            assert gate(candidate).passed == (value > 0.65 or primary_metric(spec) != "purchase.auc"), name
    assert not gate(Candidate("ads", 1, {}, 1, None, "purchase.auc", (), undefined={"purchase.auc": "one class"})).passed
