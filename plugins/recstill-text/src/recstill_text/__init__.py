"""Search relevance: transformer teachers, n-gram students, and the tasks `search` and `home-depot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recstill.api import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recstill.api import Baseline, ColumnTeacher, Dataset, Model, Task


@hookimpl
def register_datasets() -> Mapping[str, Dataset]:
    from recstill_text.home_depot import HomeDepot
    from recstill_text.pretrained import NAMED

    return {"home-depot-relevance": HomeDepot(), **NAMED}


@hookimpl
def register_tasks() -> Mapping[str, Task]:
    from recstill_text.home_depot import HomeDepotTask
    from recstill_text.search import SearchTask

    rank = SearchTask("search-rank", "/v1/search/rank", catalogue=True)
    return {"home-depot": HomeDepotTask(), "search": SearchTask(), "search-rank": rank}


@hookimpl
def register_teachers() -> Mapping[str, type[Model | ColumnTeacher]]:
    from recstill_text.encoders import BiEncoder, CrossEncoder

    return {"cross-encoder": CrossEncoder, "bi-encoder": BiEncoder}


@hookimpl
def register_students() -> Mapping[str, type[Model]]:
    from recstill_text.students import NgramStudent

    return {"ngram": NgramStudent}


@hookimpl
def register_baselines() -> Mapping[str, Baseline]:
    from recstill_text.baselines import bm25_baseline, tfidf_baseline

    return {"bm25": bm25_baseline, "tf-idf": tfidf_baseline}


@hookimpl
def register_recipes() -> Mapping[str, Path]:
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in folder.glob("*.yaml")}
