"""Whatever a user writes or brings ends in a sentence: 300 broken recipes, tables, files and words, and no traceback."""

from __future__ import annotations

import datetime as dt
import decimal
import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recstill.cli import cli

TRAINING: dict[str, Any] = {"epochs": 1, "batch_size": 64, "bf16": False}
RECIPE: dict[str, Any] = {
    "task": "fuzz",
    "seeds": [0],
    "data": {"share": 0.5},
    "teacher": {
        "name": "dlrm",
        "features": "none",
        "register_as": "fuzz-teacher",
        "training": TRAINING,
        "options": {"dim": 4, "bottom": [8], "top": [8], "dropout": 0.0},
    },
    "student": {
        "name": "small-mlp",
        "features": "none",
        "register_as": "fuzz",
        "training": TRAINING,
        "keep_negatives": 0.5,
        "options": {"dim": 4, "hidden": [8]},
        "without": [],
    },
    "distil": {
        "strategies": [
            {"name": "soft-target", "weight": 1.0, "options": {"temperature": 2.0}},
            {"name": "hint", "weight": {"start": 1, "stop": 0.5}},
        ],
        "label_weight": 1.0,
    },
    "rules": [{"when": "x > 0", "score": 1.0}],
    "baselines": [],
    "prune": {"share": 0.5},
}
QUICK = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
STRANGE = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            -1,
            0,
            10**12,
            2**63,
            2**64,
            -(2**70),
            0.5,
            -0.5,
            1e-300,
            1e300,
            float("nan"),
            float("inf"),
            [],
            {},
            "",
            "1",
            "1e1",
            "no",
            "none",
            "null",
            "a/b:1@x",
            "../x",
            "ads@champion",
            "x" * 300,
            "\n",
            [[]],
            [None],
            ["8"],
            [-8],
            {"start": 1},
            {"start": 1, "stop": 0, "shape": "exponential"},
            {"name": "dlrm"},
            "small-mlp",
            "cross-encoder",
            "lightgbm",
            "clicks",
        ]
    ),
    TEXTS,
    st.lists(TEXTS, max_size=2),
    st.dictionaries(TEXTS, st.integers(), max_size=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh home with one more plugin, whose task and data set are there."""
    base = tmp_path_factory.mktemp("broken")
    (base / "site" / "fuzz_plugin-1.0.dist-info").mkdir(parents=True)
    (base / "site" / "fuzz_plugin-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fuzz-plugin\nVersion: 1.0\n"
    )
    (base / "site" / "fuzz_plugin-1.0.dist-info" / "entry_points.txt").write_text("[recstill]\nfuzz = fuzz_plugin\n")
    shutil.copyfile(Path(__file__).parent / "fuzz_plugin.py", base / "site" / "fuzz_plugin.py")
    before, place = dict(os.environ), Path.cwd()
    os.environ |= {"RECSTILL_HOME": str(base / "home"), "RECSTILL_CACHE": str(base / "cache")}
    sys.path.insert(0, str(base / "site"))
    importlib.invalidate_caches()
    os.chdir(base)
    assert call("data", "fetch", "fuzz-data").exit_code == 0
    yield base
    os.chdir(place)
    sys.path.remove(str(base / "site"))
    os.environ.clear()
    os.environ.update(before)


def call(*words: str) -> Any:
    return CliRunner().invoke(cli, list(words))


def check(*words: str) -> str:
    """Call a command that may be refused; what it may not do is break."""
    result = call(*words)
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
    assert result.exit_code in (0, 1, 2), words
    assert "Traceback" not in result.output
    assert "Unexpected" not in result.output, (words, result.output)
    if result.exit_code:
        assert "Error: " in result.output, (words, result.output)
    return str(result.output)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every place of a recipe."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*place, key)
        yield from places(part, (*place, key))


def write(folder: Path, recipe: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return str(path)


def dry(folder: Path, recipe: Any) -> str:
    return check("run", write(folder, recipe), "--dry-run")


def test_the_whole_recipe_can_be_planned(folder: Path) -> None:
    result = call("run", write(folder, RECIPE), "--dry-run", "-o", "json")
    assert result.exit_code == 0, result.output
    assert [stage["stage"] for stage in json.loads(result.stdout)][-1] == "student"


@given(data=st.data())
@settings(QUICK, max_examples=120)
def test_a_recipe_with_another_value_or_key_anywhere(folder: Path, data: st.DataObject) -> None:
    recipe = json.loads(json.dumps(RECIPE))
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(recipe))))
        part = recipe
        for key in parents:
            part = part[key]
        what = data.draw(st.sampled_from(["value", "value", "value", "remove", "rename"]))
        if what == "value":
            part[last] = data.draw(STRANGE)
        elif what == "remove" or isinstance(part, list):
            del part[last]
        else:
            part[data.draw(TEXTS)] = part.pop(last)
    dry(folder, recipe)


@given(data=st.data())
@settings(QUICK, max_examples=60)
def test_a_recipe_file_with_other_bytes(folder: Path, data: st.DataObject) -> None:
    whole = yaml.safe_dump(RECIPE, sort_keys=False).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 12)))
    (folder / "bytes.yaml").write_bytes(whole[:start] + data.draw(st.binary(max_size=6)) + whole[end:])
    check("run", str(folder / "bytes.yaml"), "--dry-run")


COLUMNS: dict[str, Any] = {
    "null": lambda n: pa.nulls(n),
    "text": lambda n: pa.array(["a", "1"] * (n // 2)),
    "bytes": lambda n: pa.array([b"\xff"] * n),
    "list": lambda n: pa.array([[1], None] * (n // 2)),
    "lists": lambda n: pa.array([[[1]]] * n),
    "struct": lambda n: pa.array([{"a": 1}] * n),
    "bool": lambda n: pa.array([True, None] * (n // 2)),
    "nan": lambda n: pa.array([float("nan")] * n),
    "inf": lambda n: pa.array([0.0, np.inf] * (n // 2)),
    "large": lambda n: pa.array([2**63 + 5] * n, pa.uint64()),
    "huge": lambda n: pa.array([1e300, -1e300] * (n // 2)),
    "decimal": lambda n: pa.array([decimal.Decimal("1.50"), None] * (n // 2)),
    "moment": lambda n: pa.array([dt.datetime(2024, 1, 1)] * n),
    "date": lambda n: pa.array([dt.date(2024, 1, 1), None] * (n // 2)),
    "time": lambda n: pa.array([dt.time(1)] * n),
    "duration": lambda n: pa.array([dt.timedelta(1)] * n),
    "dictionary": lambda n: pa.array(["a", None] * (n // 2)).dictionary_encode(),
    "map": lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    "one": lambda n: pa.array([1] * n),
    "minus": lambda n: pa.array([-1, 1] * (n // 2)),
    "classes": lambda n: pa.array([1, 2, 3, 4] * (n // 4)),
    "N/A": lambda n: pa.array(["1.5", "N/A"] * (n // 2)),
    "inner": lambda n: pa.array([[1, None], []] * (n // 2)),
    "words": lambda n: pa.array([["a", None]] * n),
    "empty": lambda n: pa.array([""] * n),
    "float16": lambda n: pa.array(np.ones(n, np.float16)),
}
NAMES = (
    "user",
    "item",
    "x",
    "colour",
    "seen",
    "words",
    "y",
    "spent",
    "grp",
    "split",
    "sampling_rate",
    "event_timestamp",
    "new",
)


@given(
    changes=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*COLUMNS, "gone", "twice"]), min_size=1, max_size=2),
    rows=st.sampled_from([240, 240, 4, 0]),
)
@settings(QUICK, max_examples=80)
def test_a_table_with_other_columns(folder: Path, changes: dict[str, str], rows: int) -> None:
    plugin = sys.modules["fuzz_plugin"]
    table = plugin.good_table().slice(0, rows)
    for name, what in changes.items():
        if name in table.column_names and what in ("gone", "twice"):
            table = table.drop_columns([name]) if what == "gone" else table.append_column(name, table[name])
        elif what in COLUMNS:
            column = COLUMNS[what](240).slice(0, rows)
            there = name in table.column_names
            table = (
                table.set_column(table.column_names.index(name), name, column) if there else table.append_column(name, column)
            )
    case = f"{rows} {sorted(changes.items())}"
    plugin.TABLES[case] = table
    dry(folder, {**RECIPE, "data": {"case": case}})


WORD = st.one_of(
    TEXTS,
    st.sampled_from(
        [
            "fuzz:1",
            "fuzz:99999999999999999999",
            "fuzz@champion",
            "ads:١",
            "a/b:1@x",
            "champion\n",
            "../..",
            "-",
            "@",
            ":",
            "x" * 5000,
            "%s",
            "\udcff",
        ]
    ),
)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("run", "*"),
    ("run", "*.yaml"),
    ("sweep", "*"),
    ("models", "show", "*"),
    ("models", "promote", "*"),
    ("models", "lineage", "*"),
    ("models", "rollback", "*"),
    ("models", "alias", "*", "*"),
    ("runs", "show", "*"),
    ("runs", "report", "*"),
    ("run", "--resume", "*"),
    ("data", "show", "*"),
    ("data", "fetch", "*"),
    ("data", "fetch", "fuzz-data", "--from", "*"),
    ("plugins", "show", "*"),
    ("plugins", "disable", "*"),
    ("signals", "show", "*"),
    ("tasks", "show", "*"),
    ("reviews", "decide", "*", "*"),
    ("package", "*"),
    ("data", "snapshot", "fuzz", "--set", "*"),
    ("run", "recipe.yaml", "--dry-run", "--set", "*"),
    ("tune", "recipe.yaml", "--space", "*"),
    ("run", "recipe.yaml", "--dry-run", "--set", "rules=*"),
    ("run", "recipe.yaml", "--dry-run", "--set", "teacher.version=*"),
    ("sweep", "bytes.yaml"),
    ("run", "recipe.yaml", "--dry-run", "--set", "rules=bytes.yaml"),
    ("run", "."),
    ("run", "site"),
)


@given(command=st.sampled_from(COMMANDS), word=WORD)
@settings(QUICK, max_examples=80)
def test_words_and_files_that_are_none(folder: Path, command: tuple[str, ...], word: str) -> None:
    write(folder, RECIPE)
    (folder / "bytes.yaml").write_bytes(word.encode("utf-8", "surrogatepass") + b": [")
    check(*(part.replace("*", word) for part in command))


def changed(role: str, **training: Any) -> dict[str, Any]:
    """The recipe without compression, trained otherwise."""
    recipe = json.loads(json.dumps(RECIPE))
    del recipe["prune"]
    recipe[role]["training"] |= training
    return dict(recipe)


def registered() -> set[str]:
    return {row["version"] for row in json.loads(call("models", "list", "-o", "json").stdout)}


@pytest.mark.parametrize(("role", "stage"), [("teacher", "teacher"), ("student", "alone-0")])
def test_a_run_that_diverges_stops_there_and_registers_nothing_of_it(folder: Path, role: str, stage: str) -> None:
    before = registered()
    output = check("run", write(folder, changed(role, learning_rate=1e30, warmup_steps=0)))
    assert f"Error: {stage}: the term 'y' of the loss is " in output
    assert "lower learning_rate (now 1e+30)" in output
    assert {version.split(":")[0] for version in registered() - before} <= ({"fuzz-teacher"} if role == "student" else set())


def test_a_model_whose_last_epoch_was_its_best_is_named_where_runs_are_looked_at(folder: Path) -> None:
    output = check("run", write(folder, changed("student")))
    assert "warning: the last epoch of alone-0 was its best; more epochs (now 1) may help" in output
    run = json.loads(call("runs", "list", "-o", "json").stdout)[0]["id"]
    assert "The last epoch was the best of pretrain, alone-0, distilled-0" in call("runs", "show", run).output
    report = Path(call("runs", "report", run).output.strip()).read_text(encoding="utf-8")
    assert "The last epoch was the best of pretrain, alone-0, distilled-0" in report
