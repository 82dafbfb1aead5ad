"""The journal: a result is found by what decided it, and what changed is said in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recstill.api import IntegrityError
from recstill.pipeline.inputs import Inputs, canonical, in_short, plain
from recstill.pipeline.journal import RECORD, Journal

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
KEYS = st.one_of(st.text(max_size=3), st.integers(0, 3))
CONTENT = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
PARTS = st.dictionaries(st.text(min_size=1, max_size=3), CONTENT, max_size=4)
QUICK = settings(max_examples=150, deadline=None, derandomize=True)


@QUICK
@given(PARTS, PARTS)
def test_inputs_have_one_key_exactly_where_nothing_is_said_to_differ(one: dict, other: dict) -> None:
    first, second = Inputs(one), Inputs(other)
    is_same = canonical(one) == canonical(other)
    assert (first.key == second.key) is is_same
    assert (second.changes_since(first) == []) is is_same
    assert Inputs.from_json(json.loads(json.dumps(first.to_json()))).key == first.key


@QUICK
@given(PARTS, st.data())
def test_every_change_of_a_part_is_said_and_names_the_part(parts: dict, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(parts))) if parts else "new"
    changed = {**parts, name: {"was": parts.get(name), "is": 1}}
    words = Inputs(changed).changes_since(Inputs(parts))
    assert words
    assert all(word.startswith(name) for word in words)


def test_differences_are_said_as_people_would() -> None:
    before = {"task": {"labels": [{"name": "y", "weight": 1.0}, {"name": "z", "weight": 1.0}]}, "rows": "a" * 64, "rules": [1]}
    after = {"task": {"labels": [{"name": "z", "weight": 1.0}, {"name": "y", "weight": 25.0}]}, "rows": "b" * 64, "rules": [2]}
    words = Inputs(after, {"rules": "rules.yaml"}).changes_since(Inputs(before))
    assert words == ["rows changed", "rules.yaml changed", "task.labels.y.weight 1.0 → 25.0"]
    assert in_short([*words, "seed 0 → 1", "threads 1 → 2", "more"]).endswith("seed 0 → 1 and 2 more")
    assert Inputs({"a": [{"name": "x"}, {"name": "y"}]}).changes_since(Inputs({"a": [{"name": "y"}, {"name": "x"}]})) == [
        "a changed"
    ]
    assert Inputs({"a": 1}).changes_since(Inputs({"a": True})) == ["a True → 1"]


def test_what_is_no_plain_data_has_no_key() -> None:
    with pytest.raises(TypeError, match="no plain data"):
        plain({"a": object()})


def test_a_result_is_found_by_its_inputs_alone_with_its_files(tmp_path: Path) -> None:
    journal, inputs = Journal(tmp_path / "journal"), Inputs({"seed": 0})
    weights, fitted = tmp_path / "w.bin", tmp_path / "fitted"
    weights.write_bytes(b"weights")
    fitted.mkdir()
    (fitted / "trees.txt").write_text("trees")
    assert journal.find("t/alone-0", inputs) is None
    journal.keep("t/alone-0", inputs, "run-1", {"auc": 0.1 + 0.2}, {"weights": weights, "fitted": fitted})
    record = journal.find("t/alone-0", Inputs({"seed": 0}))
    assert record is not None
    assert (record.run, record.result) == ("run-1", {"auc": 0.1 + 0.2})
    record.restore({"weights": tmp_path / "other" / "w.bin", "fitted": tmp_path / "other" / "fitted", "absent": tmp_path / "x"})
    assert (tmp_path / "other" / "w.bin").read_bytes() == b"weights"
    assert (tmp_path / "other" / "fitted" / "trees.txt").read_text() == "trees"
    assert journal.find("t/alone-0", Inputs({"seed": 1})) is None
    assert journal.find("t/alone-1", inputs) is None
    journal.keep("t/alone-0", inputs, "run-2", {"auc": 0.0}, {})
    assert journal.find("t/alone-0", inputs).run == "run-1", "the first result stays"


def test_the_nearest_earlier_result_says_what_changed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep("t/a", Inputs({"seed": 0, "rows": "one", "threads": 1}), "run-1", {}, {})
    journal.keep("t/a", Inputs({"seed": 0, "rows": "two", "threads": 2}), "run-2", {}, {})
    assert journal.nearest("t/a", Inputs({"seed": 0, "rows": "two", "threads": 1})) in (
        ("run-1", ["rows one → two"]), ("run-2", ["threads 2 → 1"]),
    )  # fmt: skip
    assert journal.nearest("t/b", Inputs({})) is None


@pytest.mark.parametrize("place", [RECORD, "weights"])
def test_every_flipped_byte_of_an_entry_is_found(tmp_path: Path, place: str) -> None:
    journal, inputs = Journal(tmp_path / "journal"), Inputs({"seed": 0, "student": {"name": "mlp"}})
    (tmp_path / "w").write_bytes(b"0123456789")
    journal.keep("t/a", inputs, "run-1", {"auc": 0.75}, {"weights": tmp_path / "w"})
    path = tmp_path / "journal" / "t/a" / inputs.key / place
    whole = path.read_bytes()
    for index in range(0, len(whole), 7):
        if whole[index : index + 1].isspace():
            continue  # between two values of the JSON it means nothing
        path.unlink()
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(IntegrityError):
            journal.find("t/a", inputs)
    journal.forget("t/a", inputs)
    assert journal.find("t/a", inputs) is None
