"""What a teacher of raw columns must hold."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recstill.api.columns import ColumnInputs, ColumnRows
from recstill.api.task import FeatureSpec, LabelSpec
from recstill.testing.results import Check, check

if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURES = (
    FeatureSpec(name="query", view="context", kind="text", buckets=64, length=8),
    FeatureSpec(name="title", view="row", kind="text", buckets=64, length=8),
    FeatureSpec(name="amount", view="row"),
    FeatureSpec(name="age", view="row"),
    FeatureSpec(name="channel", view="row", kind="categorical"),
)
LABEL = LabelSpec(name="positive", primary=True)
_WORDS = ("red", "blue", "paint", "brush", "hammer", "nail")
_PLAIN = {".safetensors", ".json", ".txt", ".onnx"}


def column_rows(num_rows: int = 256, seed: int = 0) -> ColumnRows:
    """Return rows whose label follows from whether the title has the query's word, and from the amount; some values miss."""
    random = np.random.default_rng(seed)
    query, other = (np.array(_WORDS, dtype=object)[random.integers(0, len(_WORDS), num_rows)] for _ in range(2))
    same = random.random(num_rows) < 0.5
    title = np.array([f"{q if s else o} wall" for q, o, s in zip(query, other, same, strict=True)], dtype=object)
    amount = random.normal(size=num_rows).astype(np.float32)
    label = (1.5 * (np.array([q in t for q, t in zip(query, title, strict=True)]) - 0.5) + amount > 0).astype(np.float32)
    amount[::17] = np.nan
    channel = np.array(["web", "shop", None], dtype=object)[random.integers(0, 3, num_rows)]
    columns = {"query": query, "title": title, "amount": amount, "age": random.normal(size=num_rows), "channel": channel}
    return ColumnRows(columns, {"positive": label}, np.arange(num_rows) // 8)


def check_column_teacher(factory: Any, *, name: str = "", **options: Any) -> list[Check]:
    """Check a teacher of raw columns: plain files, finite answers of the right shape, the same after opening, a torn file
    refused."""
    subject = name or f"teacher {factory.__name__}"
    teacher = factory(ColumnInputs(FEATURES, (LABEL,)), **options)
    rows = column_rows()
    with tempfile.TemporaryDirectory() as temporary:
        work, folder = Path(temporary) / "work", Path(temporary) / "model"
        work.mkdir()
        teacher.fit(rows, column_rows(64, 1), work, 0, lambda _: None)
        folder.mkdir()
        for path in _files(work):
            shutil.copyfile(path, folder / path.name)
        rules = {
            "leaves plain files": lambda: _plain(folder),
            "answers every label, finite, with the hidden vectors that it declares": lambda: _answers(teacher, folder, rows),
            "says the same however its rows are cut": lambda: _cut(teacher, folder, rows),
            "answers values that training never saw": lambda: _unseen(teacher, folder, rows),
            "refuses a torn file": lambda: _torn(teacher, folder),
        }
        return [check(subject, rule, work) for rule, work in rules.items()]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def _plain(folder: Path) -> str | None:
    strange = [path.name for path in _files(folder) if path.suffix not in _PLAIN]
    return f"{', '.join(strange)}: files must be {', '.join(sorted(_PLAIN))}" if strange else None


def _answers(teacher: Any, folder: Path, rows: ColumnRows) -> str | None:
    predictor = teacher.open(folder)
    found = predictor(rows.columns, list(predictor.hidden))
    shapes = {"logit_positive": (len(rows),)} | {f"hidden_{n}": (len(rows), w) for n, w in predictor.hidden.items()}
    wrong = {name: shape for name, shape in shapes.items() if name not in found or found[name].shape != shape}
    if wrong:
        return f"expected {wrong}, got { {name: values.shape for name, values in found.items()} }"
    return None if all(np.isfinite(values).all() for values in found.values()) else "answers are not finite"


def _cut(teacher: Any, folder: Path, rows: ColumnRows) -> str | None:
    predictor = teacher.open(folder)
    whole = predictor(rows.columns)["logit_positive"]
    parts = [predictor({n: v[start : start + 50] for n, v in rows.columns.items()}) for start in range(0, len(rows), 50)]
    worst = float(np.abs(whole - np.concatenate([part["logit_positive"] for part in parts])).max())
    return f"answers differ by {worst:.1e}" if worst > 0.02 else None  # a padded batch in bfloat16 may round otherwise


def _unseen(teacher: Any, folder: Path, rows: ColumnRows) -> str | None:
    some = {name: values[:3].copy() for name, values in rows.columns.items()}
    some["channel"][:] = "never seen"
    some["query"][:], some["title"][:] = ["", "牛乳", "חלב"], ["", "🙂", "x" * 10_000]
    some["amount"][:] = [np.nan, 1e30, -1e30]
    found = teacher.open(folder)(some)["logit_positive"]
    return None if np.isfinite(found).all() else f"answers {found}"


def _torn(teacher: Any, folder: Path) -> str | None:
    largest = max(_files(folder), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2])
    try:
        teacher.open(folder)
    except (ValueError, OSError):
        return None
    finally:
        largest.write_bytes(content)
    return f"{largest.name} cut in half was opened"
