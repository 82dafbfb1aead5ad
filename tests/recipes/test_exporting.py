"""The check of an exported graph against the model that it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recstill.data.files import read_json
from recstill.recipes.exporting import check_bundle
from recstill.recipes.loading import load_recipe
from recstill.recipes.platform import Platform
from recstill.recipes.progress import Progress
from recstill.recipes.run import Run, prepare_run
from recstill.recipes.stages import RunResult
from recstill.registry.versions import find_version

Exported = tuple[Run, Path]


@pytest.fixture
def exported(finished: tuple[Platform, RunResult], platform: Platform, recipe_file: Path) -> Exported:
    """The finished run, to look at again, and the bundle of its student."""
    run = replace(prepare_run(platform, *load_recipe(platform, str(recipe_file)), Progress()), id=finished[1].run_id)
    with platform.registry.transaction() as session:
        version = find_version(session, finished[1].student)
    return run, platform.artifacts.get(version.artifact)


@pytest.mark.parametrize("groups", [("week",), ("week", "household_id"), ("split",)])
def test_a_group_may_hold_many_queries(exported: Exported, groups: tuple[str, ...]) -> None:
    run, folder = exported
    spec = run.task.spec.model_copy(update={"groups": groups})
    run.__dict__["rows"] = replace(run.rows, task=spec)
    found = check_bundle(run, "student", "distilled-0", folder)
    assert isinstance(found["parity.max_difference"], float)
    assert found["parity.max_difference"] < 1e-5
    state = read_json(run.folder / "state" / "student.json")
    assert found["bundle.bytes"] == state["metrics"]["bundle.bytes"]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_is_no_parity(exported: Exported, wrong: float) -> None:
    run, folder = exported
    state = load_file(run.weights("distilled-0"))
    broken = {name: value.clone() for name, value in state.items()}
    last = next(name for name in reversed(broken) if name.endswith("bias") or name.endswith("weight"))
    broken[last] = torch.full_like(broken[last], wrong)
    save_file(broken, run.weights("broken"))
    found = check_bundle(run, "student", "broken", folder)
    run.weights("broken").unlink()
    assert "not finite numbers" in str(found["parity.max_difference"])


def test_another_model_than_the_exported_one_is_found(exported: Exported) -> None:
    run, folder = exported
    found = check_bundle(run, "student", "alone-0", folder)
    assert isinstance(found["parity.max_difference"], float)
    assert found["parity.max_difference"] > 1e-5
