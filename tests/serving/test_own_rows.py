"""A task without Feast views is trained, packaged and served in a home where nothing else was fetched or materialized."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from recstill.data.fetch import fetch
from recstill.recipes.demo import free_port
from recstill.recipes.packaging import package
from recstill.recipes.platform import Platform
from recstill.recipes.run import run_recipe
from recstill.recipes.serving import post, running_server
from recstill.settings import Settings

QUICK = (
    "data.train=4000", "seeds=[0]", "teacher.training.epochs=1", "teacher.options={dim: 4, bottom: [8], top: [16, 8]}",
    "student.training.epochs=1", "student.options={dim: 4, hidden: [8]}",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The bento and the address of a student of clicks, whose requests bring all that it reads."""
    home = tmp_path_factory.mktemp("own-rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECSTILL_HOME", str(home))
        patch.setenv("RECSTILL_CACHE", str(home / "cache"))
        platform = Platform.open(Settings.from_environment())
        fetch(platform.catalog("datasets")["synthetic-clicks"], platform.settings.cache)
        result = run_recipe(platform, "biased", QUICK)
        bento = package(platform, [result.student])
        with running_server(platform, bento, free_port(), home / "server.log") as address:
            yield bento, address


def test_its_bento_holds_no_features(served: tuple[Path, str]) -> None:
    online = served[0] / "src" / "online"
    assert [path.name for path in online.iterdir()] == ["online.json"]
    assert json.loads((online / "online.json").read_text())["views"] == {}


def test_it_answers_requests_that_bring_everything(served: tuple[Path, str]) -> None:
    numbers = {f"x{index}": 0.5 for index in range(8)}
    rows = [{"row": 1, "user": 3, "item": 4, **numbers}, {"row": 2, "user": 3, "item": 5, **numbers}]
    answer = post(f"{served[1]}/v1/clicks/score", {"request": 7, "rows": rows})
    assert sorted(scored["row"] for scored in answer["scores"]) == [1, 2]
    assert all(0 < scored["click"] < 1 for scored in answer["scores"])
