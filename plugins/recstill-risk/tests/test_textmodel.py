"""No LightGBM file ends the process: it is refused with a sentence, or loads and answers finite numbers."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import lightgbm
import numpy as np
import pytest

from recstill.api import LabelSpec
from recstill_risk.boosted import Boosted
from recstill_risk.objectives import scale_of
from recstill_risk.textmodel import raw_text, read_text_model

if TYPE_CHECKING:
    from collections.abc import Callable

MUTATIONS = 60
LABEL = LabelSpec(name="y", primary=True)
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(500, 4))
ROWS[:, 3] = RANDOM.integers(0, 40, 500)
ASKED = np.concatenate([ROWS[:20], np.full((1, 4), np.nan), np.full((1, 4), 1e30), np.full((1, 4), -99_999)])
_NUMBERS = [
    "0", "-1", "1", "2", "2147483647", "-2147483648", "4294967295", "99999999999999999999", "nan", "inf", "1e400", "", "abc",
    "0x10", "-0", "1 1", "1000000000", "1_0", "+1",
]  # fmt: skip


def base(**parameters: object) -> str:
    label = ((ROWS[:, 0] + (ROWS[:, 3] % 3 == 1)) > 0.5).astype(float)
    settings = {"objective": "binary", "num_leaves": 7, "verbose": -1, "min_data_per_group": 1, "num_threads": 1, **parameters}
    data = lightgbm.Dataset(ROWS, label, feature_name=["a", "b", "c", "d"], categorical_feature=["d"])
    return lightgbm.train(settings, data, 6).model_to_string()


TEXT, LINEAR = base(), base(linear_tree=True)


def mutated(text: str, chance: random.Random) -> str:
    lines, kind = text.split("\n"), chance.randrange(8)
    place = chance.randrange(len(lines))
    if kind == 0:
        content = bytearray(text.encode())
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        return content.decode(errors="replace")
    if kind in (1, 2):
        return "\n".join(lines[:place] + [lines[place]] * (2 * kind - 2) + lines[place + 1 :])
    if kind == 3:
        return text[: chance.randrange(len(text))] + chance.choice(["", "\nend of trees\n"])
    trees = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+=.", line)]
    place = chance.choice(trees)
    key, values = lines[place].split("=", 1)
    words = values.split(" ")
    if kind == 7:
        chance.shuffle(words)
    else:
        words[chance.randrange(len(words))] = chance.choice(_NUMBERS)
    return "\n".join([*lines[:place], f"{key}={' '.join(words)}", *lines[place + 1 :]])


def with_sizes(text: str) -> str:
    """Return a text whose tree_sizes fit again: what else is wrong must be found all the same."""
    head, mark, rest = text.partition("\nTree=")
    body, end, tail = (mark[1:] + rest).partition("\nend of trees")
    sizes = [len(part) for part in re.split(r"^(?=Tree=)", f"{body}\n", flags=re.MULTILINE) if part]
    head = re.sub(r"tree_sizes=.*", f"tree_sizes={' '.join(map(str, sizes))}", head)
    return f"{head}\n{body}{end}{tail}"


@pytest.mark.parametrize("text", [TEXT, LINEAR])
@pytest.mark.parametrize("repair", [str, with_sizes])
def test_a_mutated_file_is_refused_or_answers_finite_numbers(text: str, repair: Callable[[str], str]) -> None:
    chance, refused = random.Random(1), 0
    for _ in range(MUTATIONS):
        content = repair(mutated(text, chance)).encode(errors="replace")
        try:
            model = read_text_model(content, "mine")
            scale = scale_of(model, LABEL, "mine")
        except ValueError:
            refused += 1
            continue
        # Read wholly, so nothing that is left may end this process: no child stands between.
        assert np.isfinite(Boosted(model, scale, "mine", trusted=True)(ASKED[:, : len(model.features)])).all()
    assert 0 < refused < MUTATIONS


def test_whole_files_are_read_and_written_with_the_same_answers() -> None:
    for text in (TEXT, LINEAR, base(boosting="dart"), base(objective="regression", min_data_in_leaf=300)):
        again = lightgbm.Booster(model_str=raw_text(read_text_model(text.encode(), "mine")))
        expected = lightgbm.Booster(model_str=text).predict(ASKED, raw_score=True)
        assert np.array_equal(again.predict(ASKED, raw_score=True), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: re.sub(r"leaf_value=-?\d", "leaf_value=", t, count=1), "tree 0: .* bytes, not the .* of tree_sizes"),
        (lambda t: with_sizes(t.replace("num_leaves=7", "num_leaves=97", 1)), "tree 0: split_feature has 6 values .* 96"),
        (lambda t: with_sizes(re.sub(r"leaf_value=\S+", "leaf_value=nan", t, count=1)), "leaf_value has something that is no"),
        (lambda t: with_sizes(re.sub(r"leaf_value=\S+", "leaf_value=1e39", t, count=1)), "leaf_value has a value beyond"),
        (lambda t: with_sizes(re.sub(r"split_feature=\d", "split_feature=9", t, count=1)), "a feature that there is not"),
        (lambda t: with_sizes(re.sub(r"left_child=\S+", "left_child=0", t, count=1)), "are no tree"),
        (lambda t: with_sizes(re.sub(r"decision_type=\d+", "decision_type=12", t, count=1)), "decision_type has a value"),
        (lambda t: with_sizes(re.sub(r"cat_boundaries=0 \d+", "cat_boundaries=0 9", t, count=1)), "cat_"),
        (lambda t: with_sizes(re.sub(r"cat_threshold=\d+", "cat_threshold=4294967296", t, count=1)), "words of 32 bits"),
        (lambda t: with_sizes(t.replace("shrinkage=", "strange=", 1)), "has a line 'strange' that is not known here"),
        (lambda t: t.replace("version=v4", "version=v5"), "is of version 'v5'"),
        (lambda t: t.replace("label_index=0", "label_index=0\nsoft_output=1"), "'soft_output' that is not known here"),
        (lambda t: t.replace("objective=binary sigmoid:1", "objective=binary sigmoid:nan"), "is no stretch"),
        (lambda t: t.replace("objective=binary sigmoid:1", "objective=binary"), "says no `sigmoid:`"),
        (lambda t: t.split("Tree=2")[0] + "end of trees\n", "claims 6 trees and has 2"),
        (lambda t: t[: len(t) // 2], "is not all of a file"),
        (lambda t: t.replace("pandas_categorical:null", "pandas_categorical:" + "[" * 100_000), "is no JSON"),
        (lambda t: t.replace("pandas_categorical:null", 'pandas_categorical:[["a", "a"]]'), "has a value twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(change: Callable[[str], str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scale_of(read_text_model(change(TEXT).encode(), "mine"), LABEL, "mine")


def test_a_file_that_ends_a_process_ends_a_child_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_text_model(TEXT.encode(), "mine")
    scale = scale_of(model, LABEL, "mine")
    torn = re.sub(r"left_child=\S+", "left_child=99999999", raw_text(model), count=1)
    torn = re.sub(r"tree_sizes=\d+", "tree_sizes=77", torn)
    monkeypatch.setattr("recstill_risk.boosted.raw_text", lambda _: torn)
    with pytest.raises(ValueError, match=r"mine: LightGBM (ends the process on it \(SIG[A-Z]+\)|refuses it)"):
        Boosted(model, scale, "mine")
