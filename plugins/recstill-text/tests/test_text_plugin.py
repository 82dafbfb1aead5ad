"""Text teachers, students and tasks; the language model is a tiny one made here, of the same files as a real one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recstill.api import ColumnInputs, ColumnRows, LabelSpec
from recstill.recipes.feature_scope import scope_of
from recstill.recipes.platform import Platform
from recstill.settings import Settings
from recstill.testing import assert_passed, check_column_teacher, check_student
from recstill.testing.columns import FEATURES, LABEL, column_rows
from recstill_text.encoders import BiEncoder, CrossEncoder
from recstill_text.home_depot import HomeDepotOptions, HomeDepotTask
from recstill_text.students import NgramStudent
from recstill_text.tiny import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "max_tokens": 16, "threads": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("factory", [CrossEncoder, BiEncoder])
def test_teachers_conform(factory: type, tiny: str) -> None:
    assert_passed(check_column_teacher(factory, model=tiny, **OPTIONS))


def test_a_killed_fine_tuning_goes_on_to_the_same_weights(tiny: str, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    teacher = CrossEncoder(ColumnInputs(FEATURES, (LABEL,)), model=tiny, **OPTIONS)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    train, valid = column_rows(96), column_rows(32, 1)

    def die_after_the_first_epoch(text: str) -> None:
        if text.startswith("epoch 2"):
            raise KilledError

    teacher.fit(train, valid, whole, 3, lambda _: None)
    with pytest.raises(KilledError):
        teacher.fit(train, valid, broken, 3, die_after_the_first_epoch)
    teacher.fit(train, valid, broken, 3, lambda _: None)
    first, again = (teacher.open(folder)(valid.columns)["logit_positive"] for folder in (whole, broken))
    assert np.array_equal(first, again)


def test_a_stored_tokenizer_pads_with_the_models_own_token(tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "model", pad="<pad>"))
    teacher = CrossEncoder(ColumnInputs(FEATURES, (LABEL,)), model=model, **{**OPTIONS, "epochs": 1})
    (tmp_path / "fitted").mkdir()
    teacher.fit(column_rows(32), column_rows(16, 1), tmp_path / "fitted", 0, lambda _: None)
    tokens = teacher.open(tmp_path / "fitted").tokens
    assert tokens.tokenizer.pad_token == "<pad>"
    assert tokens.texts(["red paint brush", "red"])["input_ids"][1, -1] == 0


def pretrained(family: str, folder: Path) -> str:
    """Write a tiny model of another family, with the tokenizer of `write_tiny_model`."""
    import transformers

    write_tiny_model(folder)
    vocabulary, path = 18, folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    small = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    torch.manual_seed(0)
    if family == "bert":
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    elif family == "roberta":
        roberta = transformers.RobertaConfig(type_vocab_size=1, max_position_embeddings=66, pad_token_id=0, **small)
        transformers.RobertaModel(roberta).save_pretrained(folder)
    elif family == "gpt2":
        config.pop("pad_token")
        gpt = transformers.GPT2Config(vocab_size=vocabulary, n_embd=16, n_layer=1, n_head=2)
        transformers.GPT2Model(gpt).save_pretrained(folder)
    elif family == "t5":
        t5 = transformers.T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        transformers.T5EncoderModel(t5).save_pretrained(folder)
    path.write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("factory", [CrossEncoder, BiEncoder])
@pytest.mark.parametrize(("family", "options"), [("bert", {}), ("roberta", {}), ("gpt2", {"pad_token": "[SEP]"})])
def test_a_teacher_scores_as_it_was_fitted(factory: type, family: str, options: dict, tmp_path: Path) -> None:
    inputs, said = ColumnInputs(FEATURES, (LABEL,)), []
    fast = {**OPTIONS, "epochs": 1, "learning_rate": 0.01}
    teacher = factory(inputs, model=pretrained(family, tmp_path / "model"), **fast, **options)
    teacher.check()
    (tmp_path / "fitted").mkdir()
    train, valid = column_rows(128), column_rows(64, 1)
    teacher.fit(train, valid, tmp_path / "fitted", 0, said.append)
    predictor = teacher.open(tmp_path / "fitted")
    z, y = predictor(valid.columns)["logit_positive"].astype(float), valid.labels["positive"]
    loss = float((np.logaddexp(0, z) - y * z).mean())
    assert float(said[-1].split()[-1]) == pytest.approx(loss, abs=0.002)
    names = set(predictor.tokens.pairs(["red"], ["blue wall"]))
    assert ("token_type_ids" in names) == (family == "bert")


@pytest.mark.parametrize("factory", [CrossEncoder, BiEncoder])
def test_texts_without_any_token_are_fitted_and_scored(factory: type, tmp_path: Path) -> None:
    model = pretrained("gpt2", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"  # now one that puts nothing around a text
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    teacher = factory(ColumnInputs(FEATURES, (LABEL,)), model=model, pad_token="[SEP]", **{**OPTIONS, "epochs": 1})
    rows = column_rows(32)
    empty = {name: np.full(32, "", object) if name in ("query", "title") else v for name, v in rows.columns.items()}
    blank = ColumnRows(empty, rows.labels, rows.groups)
    (tmp_path / "fitted").mkdir()
    teacher.fit(blank, blank, tmp_path / "fitted", 0, lambda _: None)
    predictor = teacher.open(tmp_path / "fitted")
    together = {name: np.concatenate([empty[name][:1], rows.columns[name][:7]]) for name in empty}
    alone = predictor({name: values[:1] for name, values in empty.items()})["logit_positive"]
    assert alone[0] == pytest.approx(predictor(together)["logit_positive"][0], abs=0.02)


def test_a_card_that_does_not_tell_of_token_types_is_read_where_the_model_has_none(tmp_path: Path) -> None:
    for family in ("bert", "roberta"):
        fitted = tmp_path / f"{family}-fitted"
        teacher = CrossEncoder(
            ColumnInputs(FEATURES, (LABEL,)), model=pretrained(family, tmp_path / family), **{**OPTIONS, "epochs": 1}
        )
        fitted.mkdir()
        teacher.fit(column_rows(32), column_rows(16, 1), fitted, 0, lambda _: None)
        expected = teacher.open(fitted)(column_rows(9).columns)["logit_positive"]
        card = json.loads((fitted / "teacher.json").read_text())
        older = {name: card[name] for name in ("max_tokens", "labels", "kind", "special")}
        (fitted / "teacher.json").write_text(json.dumps(older))
        if family == "bert":
            with pytest.raises(ValueError, match="did not keep whether it reads token_type_ids: fit the teacher anew"):
                teacher.open(fitted)
        else:
            assert np.array_equal(teacher.open(fitted)(column_rows(9).columns)["logit_positive"], expected)


@pytest.mark.parametrize("factory", [CrossEncoder, BiEncoder])
def test_a_model_that_cannot_pad_or_needs_a_decoder_is_refused_in_the_plan(factory: type, tmp_path: Path) -> None:
    inputs, gpt = ColumnInputs(FEATURES, (LABEL,)), pretrained("gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match=r"names no token to fill short texts with; write `pad_token`: it has .*'\[SEP\]'"):
        factory(inputs, model=gpt, **OPTIONS).check()
    with pytest.raises(ValueError, match=r"pad_token: model .* has no token '<pad>'"):
        factory(inputs, model=gpt, pad_token="<pad>", **OPTIONS).check()
    with pytest.raises(ValueError, match="is of type t5, an encoder with a decoder"):
        factory(inputs, model=pretrained("t5", tmp_path / "t5"), **OPTIONS)
    with pytest.raises(ValueError, match=r"max_tokens: model .* reads at most 64 tokens, not 65"):
        factory(inputs, model=str(write_tiny_model(tmp_path / "tiny")), **{**OPTIONS, "max_tokens": 65})


def test_a_file_that_lies_about_its_shape_is_refused(tiny: str, tmp_path: Path) -> None:
    teacher = CrossEncoder(ColumnInputs(FEATURES, (LABEL,)), model=tiny, **{**OPTIONS, "epochs": 1})
    teacher.fit(column_rows(32), column_rows(16, 1), tmp_path, 0, lambda _: None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(ValueError, match=r"model.safetensors does not fit config.json"):
        teacher.open(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "minilm-l7"}, "name minilm-l6"),
        ({"model": "package:no_such_package/model"}, "is not installed"),
        ({"query": "amount"}, "is no text feature of the task; it has query, title"),
        ({"epochs": 0}, "must be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_loaded(options: dict, words: str, tiny: str) -> None:
    with pytest.raises(ValueError, match=words):
        CrossEncoder(ColumnInputs(FEATURES, (LABEL,)), **{"model": tiny, **options})
    with pytest.raises(ValueError, match="answers binary and regression"):
        CrossEncoder(ColumnInputs(FEATURES, (LabelSpec(name="n", kind="count", primary=True),)), model=tiny)


def test_rows_without_any_label_are_refused(tiny: str, tmp_path: Path) -> None:
    rows = column_rows(16)
    blank = ColumnRows(rows.columns, {"positive": np.full(16, np.nan, np.float32)}, rows.groups)
    with pytest.raises(ValueError, match="no row has a label"):
        CrossEncoder(ColumnInputs(FEATURES, (LABEL,)), model=tiny, **OPTIONS).fit(blank, blank, tmp_path, 0, lambda _: None)


def test_the_ngram_student_conforms() -> None:
    assert_passed(check_student(NgramStudent, hidden=[8]))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    random = np.random.default_rng(0)
    queries = [f"thing {i % 40}" for i in range(400)]
    table = {
        "id": list(range(400)), "product_uid": [int(i) for i in random.integers(0, 90, 400)],
        "search_term": queries, "relevance": [float(r) for r in random.choice([1.0, 2.0, 2.33, 3.0], 400)],
    }  # fmt: skip
    table["product_title"] = [f"product thing {uid}" for uid in table["product_uid"]]
    pq.write_table(pa.table(table), folder / "train.parquet")
    return folder


def test_queries_are_split_and_grades_lie_between_zero_and_one(judged: Path) -> None:
    rows = HomeDepotTask().rows(judged, HomeDepotOptions()).to_pandas()
    assert rows.groupby("query_id").split.nunique().max() == 1
    assert set(rows.split) == {"train", "valid", "test"}
    assert rows.relevance.between(0, 1).all()
    assert rows.relevance.max() == 1


def test_unlabelled_pairs_are_of_training_queries_and_new(judged: Path) -> None:
    rows = HomeDepotTask().rows(judged, HomeDepotOptions(unlabelled=6)).to_pandas()
    further, plain = rows[rows.split == "unlabelled"], rows[rows.split != "unlabelled"]
    assert further.relevance.isna().all()
    assert set(further.query_id) == set(plain[plain.split == "train"].query_id)
    assert further.groupby("query_id").size().max() <= 6
    both = further.merge(plain, on=["query_id", "product_id"])
    assert both.empty


def test_a_match_is_no_view_that_a_task_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSTILL_HOME", str(tmp_path))
    platform = Platform.open(Settings.from_environment())
    assert scope_of(platform, tasks=["search"]).views == {"product_text", "household_history", "household_favourites"}
