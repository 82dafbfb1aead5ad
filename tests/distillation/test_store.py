"""The signal store: whole parts, resumed scoring, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recstill.api import Batch, DataError, IntegrityError
from recstill.data.files import read_card, write_card
from recstill.distillation.signals import CatalogueSignals, Committee, LiveSignals, RowSignals, age_in_days, open_signals
from recstill.distillation.store import SignalKey, SignalStore, list_stores

FACTS = {
    "snapshot_sha256": "abc", "num_snapshot_rows": 10, "labels": ["click", "grade"], "hidden": {"backbone": 3},
    "sampling_rate": 0.1, "kind": "rows",
}  # fmt: skip


def columns(ids: list[int]) -> dict[str, np.ndarray]:
    rows = np.array(ids)
    return {
        "row_id": rows, "logit_click": rows.astype(np.float32), "logit_grade": np.stack([rows, -rows], 1).astype(np.float32),
        "hidden_backbone": np.stack([rows, rows + 0.5, rows * 2], 1).astype(np.float16),
    }  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> SignalStore:
    return SignalStore(SignalKey("ads", "teacher:3", "snap"), tmp_path)


def asked(ids: list[int]) -> Batch:
    return Batch(torch.zeros(len(ids), 1), None, row_ids=torch.tensor(ids))


def test_what_is_written_is_read_and_missing_rows_are_masked(store: SignalStore) -> None:
    store.begin(FACTS)
    store.append("rows-00000.parquet", columns([4, 1]), np.array(["2017-01-01", "2017-02-01"], "datetime64[D]"))
    store.append("rows-00001.parquet", columns([7]))
    store.seal()
    source = open_signals(store, "abc")
    assert isinstance(source, RowSignals)
    said = source.of(asked([7, 0, 1]))
    assert said.mask.tolist() == [1.0, 0.0, 1.0]
    assert said.logits["click"][[0, 2]].tolist() == [7.0, 1.0]
    assert said.logits["grade"][0].tolist() == [7.0, -7.0]
    assert said.hidden["backbone"][2].tolist() == [1.0, 1.5, 2.0]
    assert said.hidden["backbone"].dtype == torch.float32
    assert said.sampling_rate == 0.1
    assert source.coverage == pytest.approx(0.3)
    assert source.covered(torch.tensor([1, 7])) == 1.0
    assert store.card["parts"]["rows-00000.parquet"]["first_event"] == "2017-01-01"
    assert 0 <= age_in_days(store.card) < 0.01


def test_scoring_goes_on_where_it_stopped_and_torn_parts_vanish(store: SignalStore) -> None:
    assert store.begin(FACTS) == set()
    store.append("rows-00000.parquet", columns([4]))
    (store.folder / "rows-00001.parquet").write_bytes(b"half a part")
    (store.folder / "rows-00002.parquet.new").write_bytes(b"less")
    with pytest.raises(DataError, match="unfinished.*recstill signals score"):
        open_signals(store, "abc")
    assert store.begin(FACTS) == {"rows-00000.parquet"}
    assert sorted(path.name for path in store.folder.iterdir()) == ["rows-00000.parquet", "signals.json"]
    store.append("rows-00001.parquet", columns([5]))
    store.seal()
    assert open_signals(store, "abc").of(asked([4, 5])).mask.tolist() == [1.0, 1.0]


def test_readers_map_the_same_files_and_a_torn_one_is_made_again(store: SignalStore) -> None:
    store.begin(FACTS)
    store.append("rows-00000.parquet", columns([4, 1]))
    store.append("rows-00001.parquet", columns([7]))
    store.seal()
    first = store.read("rows")
    assert all(isinstance(array, np.memmap) for array in first.values())
    files = sorted(store.folder.glob("rows-*/*.npy"))
    assert len(files) == 4
    made = [path.stat().st_mtime_ns for path in files]
    assert store.read("rows")["row_id"].tolist() == [4, 1, 7]
    assert [path.stat().st_mtime_ns for path in files] == made, "laid out once"
    logits = next(path for path in files if path.name == "logit_click.npy")
    logits.write_bytes(logits.read_bytes()[:-2])
    assert store.read("rows")["logit_click"].tolist() == [4.0, 1.0, 7.0]
    assert first["hidden_backbone"][2].tolist() == [7.0, 7.5, 14.0], "what is mapped stays readable"


def test_other_facts_start_afresh(store: SignalStore) -> None:
    store.begin(FACTS)
    store.append("rows-00000.parquet", columns([4]))
    assert store.begin({**FACTS, "hidden": {}}) == {"rows-00000.parquet"}, "what is stored beyond what is asked stays"
    assert store.begin({**FACTS, "hidden": {"backbone": 3, "layer1": 8}}) == set()
    assert not list(store.folder.glob("*.parquet"))
    store.append("rows-00000.parquet", columns([4]))
    assert store.begin({**FACTS, "sampling_rate": 1.0}) == set()


def test_values_that_are_no_numbers_are_not_stored(store: SignalStore) -> None:
    store.begin(FACTS)
    bad = columns([4, 5]) | {"logit_click": np.array([1.0, np.nan], np.float32)}
    with pytest.raises(DataError, match="teacher:3 gave NaN or infinite.*logit_click"):
        store.append("rows-00000.parquet", bad)
    assert not store.card["parts"]


def test_another_schema_key_snapshot_or_byte_is_refused(store: SignalStore) -> None:
    store.begin(FACTS)
    store.append("rows-00000.parquet", columns([4]))
    store.seal()
    with pytest.raises(DataError, match="scored on other rows than snapshot snap"):
        open_signals(store, "changed")
    path = store.folder / "signals.json"
    card = read_card(path)
    for change, words in (
        ({"schema": 99}, "schema 99; this version reads"),
        ({"teacher": "teacher:2"}, "holds signals of teacher:2"),
    ):
        write_card(path, card | change)
        with pytest.raises(DataError, match=words):
            open_signals(store, "abc")
    write_card(path, card)
    part = store.folder / "rows-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="was changed"):
        open_signals(store, "abc")
    with pytest.raises(DataError, match="not there"):
        open_signals(SignalStore(SignalKey("ads", "other:1", "snap"), store.folder.parents[2]), "abc")


def test_a_two_towers_vectors_answer_for_every_pair(store: SignalStore) -> None:
    random = np.random.default_rng(0)
    queries, items = random.normal(size=(3, 4)).astype(np.float16), random.normal(size=(5, 4)).astype(np.float16)
    store.begin({**FACTS, "kind": "catalogue", "labels": ["click"], "hidden": {}})
    for name, values in {"query": queries, "item": items}.items():
        store.append(f"{name}.parquet", {"row_id": np.arange(len(values)), "vector": values})
    store.append("top.parquet", {"row_id": np.arange(3), "items": np.array([[1, 2], [0, 4], [3, 1]], np.int32)})
    store.seal()
    source = open_signals(store, "abc")
    assert isinstance(source, CatalogueSignals)
    ids = [0 * 5 + 2, 2 * 5 + 4, 1 * 5 + 0]
    batch = Batch(torch.zeros(3, 1), None, labels={"click": torch.zeros(3)}, row_ids=torch.tensor(ids))
    said = source.of(batch)
    naive = [float(queries[i // 5].astype(np.float32) @ items[i % 5].astype(np.float32)) for i in ids]
    assert said.logits["click"].tolist() == pytest.approx(naive, rel=1e-4)
    assert said.hidden["item"][1].tolist() == items[4].tolist()
    assert said.mask.tolist() == [1.0, 1.0, 1.0]
    listed = Batch(batch.dense, None, labels={"click": torch.tensor([0.0, torch.nan, torch.nan])}, row_ids=batch.row_ids)
    assert source.of(listed).mask.tolist() == [0.0, 1.0, 1.0], "with lists, the teacher speaks about those only"
    assert source.top[1].tolist() == [0, 4]


def test_few_distinct_queries_and_items_give_the_same_scores_as_all_pairs(store: SignalStore) -> None:
    queries, items = torch.randn(4, 8), torch.randn(6, 8)
    source = CatalogueSignals(queries, items, torch.zeros(4, 1), "click")
    query, item = torch.randint(0, 4, (100,)), torch.randint(0, 6, (100,))
    assert torch.allclose(source._scores(query, item), (queries[query] * items[item]).sum(1), atol=1e-5)


def test_the_live_teacher_and_a_committee_answer_as_the_store_does() -> None:
    from recstill.testing.samples import inputs_for_training, sample_rows
    from recstill_rankers.mlp import SmallMLP

    rows, teacher = sample_rows(), SmallMLP(inputs_for_training())
    live = LiveSignals(teacher, rows.batch, sampling_rate=0.5)
    batch = rows.batch(torch.tensor([3, 1]))
    said = Committee([live, live]).of(batch)
    assert torch.equal(said.logits["click"], teacher.eval()(batch).logits["click"])
    assert not said.logits["click"].requires_grad
    assert (said.sampling_rate, len(said.others)) == (0.5, 1)


def test_all_stores_are_found(store: SignalStore) -> None:
    store.begin(FACTS)
    assert [found.key for found in list_stores(store.folder.parents[2])] == [store.key]
