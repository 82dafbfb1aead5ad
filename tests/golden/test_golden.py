"""Two tiny runs and every description say today what they said when these files were written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from recstill.cli import cli
from recstill.data.bundle import open_bundle
from recstill.data.fetch import fetch
from recstill.recipes.platform import Platform
from recstill.recipes.run import plan_recipe, run_recipe
from recstill.recipes.stages import RunResult
from recstill.registry.runs import metrics_of
from recstill.registry.versions import find_version, lineage_of
from recstill.serving.openapi import openapi
from recstill.settings import Settings

FOLDER = Path(__file__).parent
WRITE = os.environ.get("RECSTILL_GOLDEN") == "write"

# Measured in seconds or made of them, or as long as the words of a manifest; all else is equal to the last digit.
LEFT_OUT = ("latency.ms_per_200", "training.cpu_seconds", "bundle.bytes")

CLICKS = (
    "data.train=4000", "seeds=[0, 1]", "teacher.training.epochs=1", "teacher.options={dim: 4, bottom: [8], top: [16, 8]}",
    "student.training.epochs=1", "student.options={dim: 4, hidden: [8]}",
)  # fmt: skip

ADS = """
task: ads
data: {negatives: 1.0, unlabelled: 0.2}
seeds: [0, 1]
teacher:
  name: dcnv2
  features: ads_teacher_v1
  register_as: golden-teacher
  options: {dim: 8, cross_layers: 1, hidden: [32, 16], dropout: 0.1}
  training: {epochs: 1, batch_size: 512, table_learning_rate: 0.1, bf16: false}
student:
  name: small-mlp
  features: ads_v1
  register_as: golden
  options: {dim: 4, hidden: [16]}
  table_dtype: float16
  training: {epochs: 1, batch_size: 512, learning_rate: 0.003, bf16: false}
distil:
  strategies: [{name: auxiliary-head, weight: 2.0}, {name: hint, weight: 1.0}]
  unlabelled: true
  fine_tune: {epochs: 1, batch_size: 512, learning_rate: 0.0003, bf16: false}
prune: {share: 0.25, recovery: {epochs: 1, batch_size: 512, bf16: false}}
quantise: {recovery: {epochs: 1, batch_size: 512, bf16: false}}
baselines: [popularity]
"""


@dataclass(frozen=True)
class Finished:
    """A run that ended, with the platform that it ended on."""

    platform: Platform
    result: RunResult


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Finished, Finished, list[dict[str, str]]]]:
    """A run with a small teacher, another student of the same registered teacher, and the plan of the first."""
    home = tmp_path_factory.mktemp("golden-clicks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSTILL_HOME", str(home))
        patch.setenv("RECSTILL_CACHE", str(home / "cache"))
        platform = Platform.open(Settings.from_environment())
        fetch(platform.catalog("datasets")["synthetic-clicks"], platform.settings.cache)
        plan = [stage.as_row() for stage in plan_recipe(platform, "biased", CLICKS)]
        first = run_recipe(platform, "biased", CLICKS)
        other = [
            f"teacher.version={first.teacher}",
            "student.name=small-dlrm",
            "student.options={dim: 4, bottom: [8], top: [8]}",
        ]
        other.append("student.register_as=clicks-dlrm")
        second = run_recipe(platform, "biased", [*CLICKS, *other])
        yield Finished(platform, first), Finished(platform, second), plan


@pytest.fixture(scope="module")
def ads(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Finished, list[dict[str, str]]]]:
    """A run with every kind of stage on the real purchases of 150 households, and its plan."""
    home = tmp_path_factory.mktemp("golden-ads")
    recipe = home / "golden.yaml"
    recipe.write_text(ADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSTILL_HOME", str(home))
        patch.setenv("RECSTILL_CACHE", str(small_cache))
        patch.setenv("RECSTILL_FEATURE_REPO", str(FOLDER.parents[1] / "feature_repo"))
        platform = Platform.open(Settings.from_environment())
        plan = [stage.as_row() for stage in plan_recipe(platform, str(recipe))]
        yield Finished(platform, run_recipe(platform, str(recipe))), plan


def agree(name: str, text: str) -> None:
    """Compare with the golden file, or write it."""
    path = FOLDER / name
    if WRITE:
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs: see tests/golden/README.md"


def agree_on_numbers(name: str, metrics: dict[str, dict[str, float | None]]) -> None:
    """Compare metrics to the last digit, or to 1e-3 on another kind of processor than the one that wrote them."""
    path = FOLDER / name
    processor = torch.backends.cpu.get_cpu_capability()
    if WRITE:
        content = {"processor": processor, "metrics": metrics}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    expected = json.loads(path.read_text())
    assert {subject: sorted(values) for subject, values in metrics.items()} == {
        subject: sorted(values) for subject, values in expected["metrics"].items()
    }
    for subject, values in expected["metrics"].items():
        if processor == expected["processor"]:
            assert metrics[subject] == values, subject
        else:
            assert metrics[subject] == pytest.approx(values, rel=1e-3, abs=1e-4), subject


def numbers_of(finished: Finished) -> dict[str, dict[str, float | None]]:
    """The means that the registry keeps of a run, but for those that differ by machine."""
    with finished.platform.registry.transaction() as session:
        found = metrics_of(session, finished.result.run_id)
    return {
        subject: {name: values[0] for name, values in metrics.items() if name not in LEFT_OUT}
        for subject, metrics in found.items()
    }


def lineage_text(finished: Finished) -> str:
    """The lineage of the student and of its teacher, a line per parent."""
    lines = []
    with finished.platform.registry.transaction() as session:
        for reference in (finished.result.student, finished.result.teacher):
            for row in lineage_of(session, find_version(session, reference)):
                details = json.dumps(row.details, sort_keys=True)
                lines.append(f"{reference} <- {row.relation} {row.value} {details}")
    return without_ids("\n".join(lines)) + "\n"


def plan_text(plan: list[dict[str, str]]) -> str:
    """The plan without its estimates of time."""
    kept = [{name: value for name, value in row.items() if name != "about"} for row in plan]
    return json.dumps(kept, indent=1) + "\n"


def report_text(finished: Finished) -> str:
    """The report's words and numbers, a line per element, without pictures and style."""
    page = finished.result.report.read_text()
    page = re.sub(r"<(svg|style|head).*?</\1>", "", page, flags=re.DOTALL)
    lines = [line.strip() for line in re.sub(r"<[^>]*>", "\n", page).splitlines()]
    return without_ids("\n".join(line for line in lines if line)) + "\n"


def without_ids(text: str) -> str:
    """Replace what differs from run to run, or with every line of code."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", text)
    text = re.sub(r"\b(clicks|ads)-[0-9a-f]{12}\b", r"\1-SNAPSHOT", text)
    text = re.sub(r"\b(\w+)-\d{8}-\d{6}-[0-9a-f]{4}\b", r"\1-RUN", text)
    text = re.sub(r'("bytes": )[\d.]+', r"\1BYTES", text)
    text = re.sub(r"bytes [\d.]+|[\d,]+ bytes", "BYTES", text)
    text = re.sub(r"[\d.]+ MB", "SIZE", text)
    text = re.sub(r"[\d.]+ ms", "TIME", text)
    return re.sub(r"[\d.]+ x\b", "RATIO", text)


def help_of(command: click.Command, words: list[str]) -> list[str]:
    """The help of a command and of all below it."""
    result = CliRunner().invoke(cli, [*words, "--help"], terminal_width=100, prog_name="recstill")
    assert result.exit_code == 0
    texts = [result.output]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            texts += help_of(command.commands[name], [*words, name])
    return texts


Clicks = tuple[Finished, Finished, list[dict[str, str]]]
Ads = tuple[Finished, list[dict[str, str]]]


def test_metrics_of_clicks(clicks: Clicks) -> None:
    agree_on_numbers("clicks-metrics.json", numbers_of(clicks[0]))
    agree_on_numbers("clicks-dlrm-metrics.json", numbers_of(clicks[1]))


def test_lineage_of_clicks(clicks: Clicks) -> None:
    agree("clicks-lineage.txt", lineage_text(clicks[0]) + lineage_text(clicks[1]))


def test_plan_of_clicks(clicks: Clicks) -> None:
    agree("clicks-plan.json", plan_text(clicks[2]))


def test_report_of_clicks(clicks: Clicks) -> None:
    agree("clicks-report.txt", report_text(clicks[0]))


def test_metrics_of_ads(ads: Ads) -> None:
    agree_on_numbers("ads-metrics.json", numbers_of(ads[0]))


def test_lineage_of_ads(ads: Ads) -> None:
    agree("ads-lineage.txt", lineage_text(ads[0]))


def test_plan_of_ads(ads: Ads) -> None:
    agree("ads-plan.json", plan_text(ads[1]))


def test_report_of_ads(ads: Ads) -> None:
    agree("ads-report.txt", report_text(ads[0]))


def test_openapi_of_every_bundled_task(clicks: Clicks) -> None:
    catalog = clicks[0].platform.catalog("tasks")
    document: dict[str, Any] = openapi(catalog[name].spec for name in sorted(catalog))
    agree("openapi.json", json.dumps(document, indent=1, sort_keys=True) + "\n")


def test_help_of_every_command() -> None:
    agree("help.txt", "\n".join(help_of(cli, [])))


def test_the_report_speaks_of_the_student_that_is_registered(ads: Ads) -> None:
    finished, _ = ads
    table = finished.result.metrics
    with finished.platform.registry.transaction() as session:
        version = find_version(session, finished.result.student)
    page = finished.result.report.read_text()
    assert version.num_parameters == table["student quantised"]["training.parameters"][0]
    assert version.num_parameters <= table["student pruned"]["training.parameters"][0]
    assert f"<td>{version.num_parameters:,}</td>" in page
    gain = table["student quantised"]["purchase.auc"][0] - table["student alone"]["purchase.auc"][0]
    assert f"gain {gain:+.4f} purchase.auc" in page
    assert "student quantised" in re.findall(r"<svg.*?</svg>", page, re.DOTALL)[-1]
    manifest = open_bundle(finished.platform.artifacts.get(version.artifact))
    assert manifest.num_parameters == version.num_parameters
    assert version.baselines.keys() == {"popularity"}


def test_a_run_ends_with_its_metrics_its_verdict_and_the_next_commands(
    clicks: Clicks, capsys: pytest.CaptureFixture[str]
) -> None:
    from recstill.cli.results import show_result

    finished = clicks[0]
    show_result(finished.platform, finished.result, "json")
    shown = json.loads(capsys.readouterr().out)
    measured = numbers_of(finished)["student distilled"]["click.auc"]
    assert shown["metrics"]["student distilled"]["click.auc"]["value"] == measured
    assert shown["verdict"] == finished.result.verdict
    show_result(finished.platform, finished.result, "table")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["auc", "gauc", "ndcg@10"]
    assert [line.split()[0] for line in lines[1:3]] == ["teacher", "student"]
    commands = "\n".join(lines)
    assert f"recstill models promote {finished.result.student}" in commands
    assert "materialize" not in commands, "its requests bring everything"
