"""The law of the biased teacher, through whole runs: cal_s = (1 + λ c) / (1 + λ), and two ways out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recstill.data.fetch import fetch
from recstill.recipes.platform import Platform
from recstill.recipes.run import run_recipe
from recstill.settings import Settings

SEEDS = "seeds=[0]"


@pytest.fixture(scope="module")
def calibrations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float, float]]:
    """Calibration of (teacher, student alone, student distilled) for each way of teaching."""
    home = tmp_path_factory.mktemp("biased")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSTILL_HOME", str(home))
        patch.setenv("RECSTILL_CACHE", str(home / "cache"))
        platform = Platform.open(Settings.from_environment())
        fetch(platform.catalog("datasets")["synthetic-clicks"], platform.settings.cache)
        found, teacher = {}, []
        for name, weight in (("soft-target", 0.5), ("soft-target", 2.0), ("cross-debias", 1.0), ("auxiliary-head", 5.0)):
            strategies = f"distil.strategies=[{{name: {name}, weight: {weight}}}]"
            result = run_recipe(platform, "biased", [SEEDS, strategies, *teacher])
            teacher = [f"teacher.version={result.teacher}"]
            metrics = [result.metrics[s]["click.calibration"][0] for s in ("teacher", "student alone", "student distilled")]
            found[f"{name} {weight:g}"] = (metrics[0], metrics[1], metrics[2])
    return found


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_on_the_served_head_the_teachers_bias_becomes_the_students_by_formula(
    calibrations: dict[str, tuple[float, float, float]], weight: float
) -> None:
    teacher, alone, distilled = calibrations[f"soft-target {weight:g}"]
    assert teacher > 4, "trained on a tenth of the negatives it overestimates manifold"
    # The student's own calibration on the test rows takes the place of the 1 in the law: its sampling noise is not the law's.
    assert distilled == pytest.approx((alone + weight * teacher) / (1 + weight), rel=0.03)


@pytest.mark.parametrize("way", ["cross-debias 1", "auxiliary-head 5"])
def test_sampling_correction_and_the_auxiliary_head_keep_the_student_calibrated(
    calibrations: dict[str, tuple[float, float, float]], way: str
) -> None:
    assert 0.95 <= calibrations[way][2] <= 1.05


def test_the_recipe_is_the_one_that_ships() -> None:
    import recstill_benchmarks

    text = (Path(recstill_benchmarks.__file__).parent / "recipes" / "biased.yaml").read_text()
    assert "keep_negatives: 0.1" in text
