"""Two processes that make snapshots of one data set in one home: each joins the sources that its own rows gave."""

from __future__ import annotations

from threading import Thread

import pytest

from recstill.api import DataError
from recstill.recipes.data import make_snapshot
from recstill.recipes.platform import Platform
from recstill.settings import Settings

FEW = {"negatives": 1.0, "household_share": 0.5}
OTHER = {"negatives": 1.0, "household_share": 0.2}


def test_rows_are_joined_with_their_own_training_sources(empty_home: Settings) -> None:
    platform = Platform.open(empty_home)
    task = platform.task("ads")
    alone = make_snapshot(platform, task, FEW, "ads_teacher_v1", lambda _: None)
    said: list[str] = []

    def other() -> None:
        make_snapshot(Platform.open(empty_home), task, OTHER, "ads_teacher_v1", said.append)

    def waited() -> bool:
        return any(text.startswith("waiting for another process") for text in said)

    thread = Thread(target=other)

    def meanwhile(text: str) -> None:
        if text.startswith("joining"):  # its training sources lie there, and are not read yet
            thread.start()
            while thread.is_alive() and not waited():
                thread.join(0.2)

    beside = make_snapshot(platform, task, FEW, "ads_teacher_v1", meanwhile)
    thread.join()
    assert beside.id == alone.id
    assert waited()
    assert make_snapshot(platform, task, OTHER, "ads_teacher_v1", lambda _: None).id != alone.id


def test_rows_of_files_that_were_replaced_meanwhile_are_not_kept(empty_home: Settings) -> None:
    from recstill.data.fetch import raw_folder
    from recstill.data.files import read_json, write_json

    platform = Platform.open(empty_home)
    files = raw_folder(platform.catalog("datasets")["complete-journey"], empty_home.cache) / "files.json"
    before = read_json(files)

    def meanwhile(text: str) -> None:
        if text == "building rows":  # what `data fetch --from` of other files leaves
            write_json(files, {**before, "products.parquet": "0" * 64})

    try:
        with pytest.raises(DataError, match="While the rows of task 'ads' were made, .*products.parquet"):
            make_snapshot(platform, platform.task("ads"), FEW, "none", meanwhile)
    finally:
        write_json(files, before)
    assert not list((empty_home.home / "snapshots").glob("ads-*"))
